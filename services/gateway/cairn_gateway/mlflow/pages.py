"""Page tokens as MLflow's server gives them: how many came before, in base64."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Final

from cairn_gateway.mlflow.errors import invalid
from cairn_gateway.mlflow.fields import Fields

MOST: Final = 50_000


def offset_of(fields: Fields) -> int:
    """How many come before the page that a request asks for. Raises MlflowError for a token that is none."""
    token = fields.text("page_token")
    if not token:
        return 0
    try:
        text = base64.b64decode(token)
    except (binascii.Error, ValueError):
        raise invalid("Invalid page token, could not base64-decode") from None
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        raise invalid(f"Invalid page token, decoded value={text[:100]!r}") from None
    offset = parsed.get("offset") if isinstance(parsed, dict) else None
    if offset is None:
        raise invalid(f"Invalid page token, parsed value={str(parsed)[:100]}")
    if not isinstance(offset, int) or not 0 <= offset < 2**53:
        raise invalid(f"Invalid page token, not stringable {str(offset)[:40]}")
    return offset


def token_at(offset: int) -> str:
    """The token of the page before which so many come."""
    return base64.b64encode(json.dumps({"offset": offset}).encode()).decode()


def max_results(fields: Fields, default: int | None, *, most: int = MOST) -> int:
    """How many are asked for. Raises MlflowError for none, or too many."""
    asked = fields.whole("max_results")
    if asked is None:
        if default is None:
            asked = 0
        else:
            return default
    if asked <= 0:
        raise invalid(
            f"Invalid value {asked} for parameter 'max_results' supplied. It must be a positive integer"
        )
    if asked > most:
        raise invalid(
            f"Invalid value {asked} for parameter 'max_results' supplied. It must be at most {most}"
        )
    return asked
