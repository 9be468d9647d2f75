"""What a request says, field by field, checked with the messages that MLflow's own server gives.

A body that does not fit its types is checked field by field, one that does only for what is missing; both
give the same answers here, for every field is read with its type.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic_core import from_json

from cairn_gateway.mlflow.errors import MlflowError, invalid

T = TypeVar("T")

LARGEST_BODY: Final = 8 * 1024 * 1024
SEE: Final = " See the API docs for more information about request parameters."
_INT64: Final = 2**63
_INFINITIES: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one request: of its body, or (`texts`: all values are texts) of the query of a GET."""

    values: Mapping[str, Any]
    texts: bool = False
    # Bytes of the body, unpacked.
    size: int = 0

    def text(self, name: str, *, required: bool = False, default: str = "") -> str:
        """A text; its default without one. Raises MlflowError for what is none, or is required and missing
        or empty."""
        value = self._get(name, required=required)
        if value is None:
            return default
        if not isinstance(value, str):
            raise wrong_type(name, value)
        return value

    def optional_text(self, name: str) -> str | None:
        """A text, None without one."""
        return None if self.values.get(name) is None else self.text(name)

    def run_id(self) -> str:
        """Of the run; the old name `run_uuid` counts where `run_id` is not there."""
        for name in ("run_id", "run_uuid"):
            if self.values.get(name) not in (None, ""):
                return self.text(name)
        return self.text("run_id", required=True)

    def whole(self, name: str, *, required: bool = False) -> int | None:
        """A whole number, as a number or as a text; None without one."""
        value = self._get(name, required=required)
        return None if value is None else whole(name, value)

    def number(self, name: str) -> float:
        """A required number, as a number or as a text, `NaN` and infinities among them."""
        return number(name, self._get(name, required=True))

    def flag(self, name: str) -> bool:
        """True or false; false without it."""
        value = self.values.get(name)
        if value is None:
            return False
        if self.texts and isinstance(value, str):
            if value.lower() not in ("true", "false"):
                raise invalid(f"Invalid boolean value: {value}, must be 'true' or 'false'.")
            return value.lower() == "true"
        if not isinstance(value, bool):
            raise wrong_type(name, value)
        return value

    def items(self, name: str, *, required: bool = False) -> Sequence[Any]:
        """A list, of anything."""
        value = self._get(name, required=required)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise wrong_type(name, value)
        return value

    def text_items(self, name: str) -> list[str]:
        """A list of texts; of the query also one text alone."""
        value = self.values.get(name)
        if self.texts and isinstance(value, str):
            return [value]
        found = list(self.items(name))
        if not all(isinstance(item, str) for item in found):
            raise wrong_type(name, value)
        return found

    def pairs(self, name: str) -> list[tuple[str, str]]:
        """A list of `{key, value}`, both texts. A pair without a value has an empty one."""
        found = []
        for place, item in enumerate(self.items(name)):
            inner = Fields(as_object(f"{name}[{place}]", item))
            key = inner.text("key")
            if not key:
                raise missing_value(f"{name}[{place}].key")
            found.append((key, inner.text("value")))
        return found

    def objects(self, name: str, *, required: bool = False) -> list[Fields]:
        """A list of objects."""
        return [
            Fields(as_object(f"{name}[{place}]", item))
            for place, item in enumerate(self.items(name, required=required))
        ]

    def _get(self, name: str, *, required: bool) -> Any:
        value = self.values.get(name)
        if required and (value is None or value == ""):
            raise missing_value(name)
        return value


def of_body(text: bytes) -> Fields:
    """The fields of a JSON body; none of an empty one. Raises MlflowError (BAD_REQUEST)."""
    if not text:
        return Fields({})
    try:
        value = from_json(text)
        # Old clients wrap the object into a text once more.
        value = from_json(value) if isinstance(value, str) else value
    except ValueError as error:
        raise MlflowError("BAD_REQUEST", f"the body is not JSON: {error}") from None
    if value is None:
        return Fields({})
    if not isinstance(value, dict):
        raise MlflowError("BAD_REQUEST", "the body must be a JSON object")
    return Fields(value, size=len(text))


def of_query(items: Sequence[tuple[str, str]]) -> Fields:
    """The fields of a query; one that stands several times is a list."""
    found: dict[str, Any] = {}
    for name, text in items:
        known = found.get(name)
        if known is None:
            found[name] = text
        elif isinstance(known, list):
            known.append(text)
        else:
            found[name] = [known, text]
    return Fields(found, texts=True)


def as_object(path: str, value: Any) -> Mapping[str, Any]:
    """The value, if it is an object."""
    if not isinstance(value, dict):
        raise wrong_type(path, value)
    return value


def whole(name: str, value: Any) -> int:
    """The value as a whole number of 64 bits."""
    made: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        made = value
    elif isinstance(value, float) and value.is_integer():
        made = int(value)
    elif isinstance(value, str):
        try:
            made = int(value) if value.isascii() and len(value) < 25 and "_" not in value else None
        except ValueError:
            made = None
    if made is None or not -_INT64 <= made < _INT64:
        raise wrong_type(name, value)
    return made


def number(name: str, value: Any) -> float:
    """The value as a number, NaN and infinities among them."""
    if isinstance(value, float):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise wrong_type(name, value) from None
    if isinstance(value, str):
        if value in _INFINITIES:
            return _INFINITIES[value]
        try:
            if value.isascii() and len(value) < 400 and "_" not in value:
                return float(value)
        except ValueError:
            pass
    raise wrong_type(name, value)


def missing_value(name: str) -> MlflowError:
    """The error for a field that has to be there."""
    return invalid(f"Missing value for required parameter '{name}'.{SEE}")


def wrong_type(name: str, value: Any) -> MlflowError:
    """The error for a field of another type."""
    return invalid(f"{invalid_value(name, value)}  Hint: Value was of type '{type(value).__name__}'.{SEE}")


def invalid_value(name: str, value: Any) -> str:
    """How MLflow says that it does not like a value."""
    shown = json.dumps(value, sort_keys=True, separators=(",", ":"))
    if len(shown) > 500:
        shown = shown[:500] + "..."
    return f"Invalid value {shown} for parameter '{name}' supplied:"
