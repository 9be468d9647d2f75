"""What models, their aliases, stages and tags may be called, in the words of MLflow's server. No I/O."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Mapping
from typing import Final

from cairn_common.errors import InvalidArgument, Reason

LATEST: Final = "latest"
STAGES: Final = ("None", "Staging", "Production", "Archived")
ACTIVE_STAGES: Final = ("Staging", "Production")

_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_ALIAS = re.compile(r"[\w\-]+")
_LIKE_A_NUMBER = re.compile(r"[vV]\d+")
_KEY = re.compile(r"[/\w.\- :]*")
_LONGEST_NAME: Final = 256
_LONGEST_ALIAS: Final = 255
_LONGEST_KEY: Final = 250
_LONGEST_VALUE: Final = 100_000
_LONGEST_TEXT: Final = 5_000
_LONGEST_PARAM: Final = 6_000
_MOST_TAGS: Final = 1_000
_NOT_IN_LOGGED: Final = ("/", ":", ".", "%", '"', "'")


def check_name(name: str, field: str = "name") -> str:
    """The name of a model as it is. Raises InvalidArgument."""
    if not name.strip():
        raise InvalidArgument(f"Missing value for required parameter '{field}'.", field=field)
    if "/" in name or ":" in name:
        raise InvalidArgument(
            f"Invalid model name '{name[:80]}'. Names cannot contain '/' or ':'.", field=field
        )
    if _resolves(name) or "\0" in name:
        raise _names_another(field, name)
    _check_length(field, name, _LONGEST_NAME)
    return name


def check_alias(alias: str) -> str:
    """An alias as somebody asks for it. Raises InvalidArgument (ALIAS_INVALID)."""
    if not alias:
        raise _alias("Registered model alias name cannot be empty.")
    if _ALIAS.fullmatch(alias) is None:
        raise _alias(
            f"Invalid alias name: '{alias[:80]}'. Names may only contain alphanumerics, underscores (_), and "
            "dashes (-)."
        )
    if len(alias) > _LONGEST_ALIAS:
        raise _alias(
            f"'Registered model alias name' exceeds the maximum length of {_LONGEST_ALIAS} characters"
        )
    return alias


def check_moved_alias(alias: str) -> str:
    """As `check_alias`, for one that somebody moves: `latest` and what looks like a number are taken."""
    check_alias(alias)
    if alias.lower() == LATEST:
        raise _alias("'latest' alias name (case insensitive) is reserved.")
    if _LIKE_A_NUMBER.fullmatch(alias):
        raise _alias(f"Version alias name '{alias}' is reserved.")
    return alias


def check_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags as they are. Raises InvalidArgument."""
    if len(tags) > _MOST_TAGS:
        raise InvalidArgument(f"tags: at most {_MOST_TAGS:,} can be given", field="tags")
    for key, value in tags.items():
        check_tag_key(key)
        _check_length("value", value, _LONGEST_VALUE)
        if "\0" in value:
            raise InvalidArgument(
                f"Invalid value for tag '{key}': a text has no character NUL", field="value"
            )
    return dict(tags)


def check_tag_key(key: str) -> str:
    """The key as it is. Raises InvalidArgument."""
    if _KEY.fullmatch(key) is None:
        raise InvalidArgument(
            f"Invalid value {json.dumps(key[:80])} for parameter 'key' supplied: Names may only contain "
            "alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), colon(:) and slashes (/).",
            field="key",
        )
    if _resolves(key):
        raise _names_another("key", key)
    _check_length("key", key, _LONGEST_KEY)
    return key


def check_labels(field: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Texts by key, of a trace, as they are. Raises InvalidArgument."""
    if len(labels) > _MOST_TAGS:
        raise InvalidArgument(f"{field}: at most {_MOST_TAGS:,} can be given", field=field)
    for key, value in labels.items():
        if not 0 < len(key) <= _LONGEST_KEY or not key.isprintable():
            raise InvalidArgument(
                f"{field}: {key[:80]!r} is no key of 1 to {_LONGEST_KEY} characters", field=field
            )
        if len(value) > _LONGEST_VALUE or "\0" in value:
            raise InvalidArgument(
                f"{field}: the value of {key!r} has more than {_LONGEST_VALUE:,} characters, or NUL",
                field=field,
            )
    return dict(labels)


def check_params(params: Mapping[str, str]) -> dict[str, str]:
    """The params of a logged model as they are. Raises InvalidArgument."""
    if len(params) > _MOST_TAGS:
        raise InvalidArgument(f"params: at most {_MOST_TAGS:,} can be given at once", field="params")
    for key, value in params.items():
        check_tag_key(key)
        _check_length("value", value, _LONGEST_PARAM)
        if "\0" in value:
            raise InvalidArgument(
                f"Invalid value for param '{key}': a text has no character NUL", field="value"
            )
    return dict(params)


def check_logged_name(name: str) -> str:
    """The name of a logged model as it is. Raises InvalidArgument."""
    if any(mark in name for mark in _NOT_IN_LOGGED) or not name.isprintable():
        raise InvalidArgument(
            f"Invalid model name ({name[:80]!r}) provided. Model name must be a non-empty string and cannot "
            f"contain the following characters: {_NOT_IN_LOGGED}",
            field="name",
        )
    _check_length("name", name, _LONGEST_NAME)
    return name


def check_text(field: str, text: str) -> str:
    """A description as it is. Raises InvalidArgument."""
    _check_length(field, text, _LONGEST_TEXT)
    if "\0" in text:
        raise InvalidArgument(f"{field}: a text has no character NUL", field=field)
    return text


def stage(text: str) -> str:
    """A stage as it is spelled. Raises InvalidArgument."""
    for known in STAGES:
        if known.lower() == text.lower():
            return known
    raise InvalidArgument(
        f"Invalid Model Version stage: {text[:80]}. Value must be one of {', '.join(STAGES)}.", field="stage"
    )


def artifact_id(name: str, *, taken: bool = False) -> str:
    """The id of the artifact behind a model: its name where that is an id and nothing else has it (`taken`),
    otherwise what can be read of the name, made unique by what cannot."""
    if not taken and _ID.fullmatch(name):
        return name
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    words = re.sub(r"^[^a-z]+", "", words)[:48].rstrip("-") or "model"
    return f"{words}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"


def _resolves(name: str) -> bool:
    """Whether the name, as a file's, would be another one's."""
    plain = posixpath.normpath(name)
    return plain != name or plain == "." or plain.startswith(("..", "/"))


def _names_another(field: str, name: str) -> InvalidArgument:
    return InvalidArgument(
        f"Invalid value {json.dumps(name[:80])} for parameter '{field}' supplied: Names may be "
        "treated as files in certain cases, and must not resolve to other names when treated as such. "
        f"This name would resolve to {posixpath.normpath(name[:80])!r}",
        field=field,
    )


def _check_length(field: str, text: str, most: int) -> None:
    if len(text) > most:
        raise InvalidArgument(f"'{field}' exceeds the maximum length of {most} characters", field=field)


def _alias(message: str) -> InvalidArgument:
    return InvalidArgument(message, reason=Reason.ALIAS_INVALID, field="alias")
