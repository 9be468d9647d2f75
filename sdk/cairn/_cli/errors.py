"""What went wrong, in one line, with what to do about it and the exit code."""

from __future__ import annotations

from dataclasses import dataclass

from cairn._blobs import TransferError
from cairn._cli.text import clean
from cairn._code import CodeError
from cairn._config import ConfigError
from cairn._http import ApiError, Unreachable
from cairn._paths import UnsafePath
from cairn.client import NotConfigured

FAILED, USAGE, NOT_FOUND, NOT_ALLOWED, UNREACHABLE = 1, 2, 3, 4, 5
_CODES = {400: USAGE, 401: NOT_ALLOWED, 403: NOT_ALLOWED, 404: NOT_FOUND, 413: USAGE, 422: USAGE}


@dataclass(frozen=True, slots=True)
class Told:
    """An error as a person reads it."""

    message: str
    code: int = FAILED
    hint: str = ""


class CliError(Exception):
    """An error that a command states itself."""

    def __init__(self, message: str, *, code: int = FAILED, hint: str = "") -> None:
        super().__init__(message)
        self.told = Told(message, code, hint)


def tell(error: Exception) -> Told:
    """The line, the hint and the code for any error that ends a command."""
    if isinstance(error, CliError):
        return error.told
    if isinstance(error, ApiError):
        return _refused(error)
    if isinstance(error, Unreachable):
        cause = getattr(error.cause, "strerror", None) or error.cause or "no answer"
        return Told(
            f"the server at {error.url} cannot be reached: {clean(str(cause))}",
            UNREACHABLE,
            "is it up? `cairn status`, `cairn up`; another address: `cairn login URL`",
        )
    if isinstance(error, NotConfigured):
        return Told(str(error), NOT_ALLOWED)
    if isinstance(error, CodeError | ConfigError):
        return Told(str(error), USAGE)
    if isinstance(error, TransferError | UnsafePath):
        return Told(str(error))
    if isinstance(error, OSError):
        # Of a move, the place that it was to go to: the other one is ours.
        at = error.filename2 or error.filename
        where = f"{at}: " if at else ""
        return Told(f"{where}{error.strerror or error}")
    return Told(
        f"{type(error).__name__}: {clean(str(error))}",
        FAILED,
        "this is a bug in Cairn; `--debug` shows where",
    )


def _refused(error: ApiError) -> Told:
    code = _CODES.get(error.status, FAILED)
    hint = ""
    if error.status == 401:
        hint = "`cairn login` with a valid token"
    elif error.status in (502, 503, 504):
        code, hint = UNREACHABLE, "a part of the platform is away; `cairn status` says which"
    elif error.status >= 500:
        hint = f"the server's log has it under request {error.request_id}" if error.request_id else ""
    return Told(clean(error.detail), code, hint)
