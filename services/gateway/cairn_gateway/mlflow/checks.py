"""What names and values may be, with the sentences of MLflow's own server. Pure."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Sequence, Sized
from functools import lru_cache
from typing import Final

from cairn_gateway.mlflow.errors import MlflowError, invalid
from cairn_gateway.mlflow.fields import invalid_value

MOST_METRICS: Final = 1_000
MOST_TEXTS: Final = 100
LARGEST_BATCH: Final = 1_000_000
LONGEST_KEY: Final = 250
LONGEST_PARAM: Final = 6_000
LONGEST_TAG: Final = 8_000
_NAME = re.compile(r"[/\w.\- :]*")
_CHARACTERS: Final = (
    "Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), colon(:) "
    "and slashes (/)."
)


def check_metric(path: str, key: str, value: float, timestamp: int) -> None:
    """Raises MlflowError for a metric that cannot be; `path` is where it stands in the request."""
    check_name(f"{path}name", key)
    if timestamp < 0:
        raise invalid(
            f"{invalid_value(path + 'timestamp', timestamp)} metric '{key}' (value={value}). "
            "Timestamp must be a nonnegative long (64-bit integer) "
        )
    check_length("Metric name", LONGEST_KEY, key)


def param(path: str, key: str, value: str) -> tuple[str, str]:
    """A param as it is kept: one that is too long is cut, as MLflow's server does. Raises MlflowError for one
    that cannot be."""
    check_name(f"{path}key", key)
    check_length("Param key", LONGEST_KEY, key)
    return key, value[:LONGEST_PARAM]


def tag(path: str, key: str, value: str) -> tuple[str, str]:
    """A run's tag as it is kept: as `param`."""
    check_name(f"{path}key", key)
    check_length(f"{path}key", LONGEST_KEY, key)
    return key, value[:LONGEST_TAG]


def check_tag(path: str, key: str, value: str, *, longest: int) -> None:
    """Raises MlflowError for an experiment's tag that cannot be."""
    check_name(f"{path}key", key)
    check_length(f"{path}key", LONGEST_KEY, key)
    check_length(f"{path}value", longest, value)


@lru_cache(maxsize=4096)
def check_name(path: str, name: str) -> None:
    """Raises MlflowError for a name that cannot be, or that would be another one as a file's path."""
    if _NAME.fullmatch(name) is None:
        raise invalid(f"{invalid_value(path, name)} {_CHARACTERS}")
    norm = posixpath.normpath(name)
    if norm != name or norm == "." or norm.startswith(("..", "/")):
        raise invalid(
            f"{invalid_value(path, name)} Names may be treated as files in certain cases, and must not "
            f"resolve to other names when treated as such. This name would resolve to {norm!r}"
        )


def check_length(what: str, most: int, text: str) -> None:
    """Raises MlflowError for a text that is too long."""
    if len(text) > most:
        raise invalid(f"'{what}' exceeds the maximum length of {most} characters")


def check_batch(metrics: Sized, params: Sequence[tuple[str, str]], tags: Sized) -> None:
    """Raises MlflowError for a batch with too much in it, or a param twice."""
    _check_count("metrics", MOST_METRICS, len(metrics))
    _check_count("params", MOST_TEXTS, len(params))
    _check_count("tags", MOST_TEXTS, len(tags))
    _check_count("metrics, params, and tags", MOST_METRICS, len(metrics) + len(params) + len(tags))
    keys = [key for key, _ in params]
    twice = [key for place, key in enumerate(keys) if key in keys[:place]]
    if twice:
        raise invalid(
            f"Duplicate parameter keys have been submitted: {twice}. Please ensure the request contains only "
            "one param value per param key."
        )


def check_size(size: int) -> None:
    """Raises MlflowError for a batch with too many bytes."""
    if size > LARGEST_BATCH:
        raise invalid(
            f"Batched logging API requests must be at most {LARGEST_BATCH} bytes, got a request of "
            f"size {size}."
        )


def as_json(value: float) -> float | str:
    """A number as JSON can have it."""
    if math.isfinite(value):
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def _check_count(what: str, most: int, count: int) -> None:
    if count > most:
        raise MlflowError(
            "INVALID_PARAMETER_VALUE",
            f"A batch logging request can contain at most {most} {what}. Got {count} {what}. Please split up "
            f"{what} across multiple requests and try again.",
        )
