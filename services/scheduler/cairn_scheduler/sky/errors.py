"""What SkyPilot's refusals mean for an attempt. Pure."""

from __future__ import annotations

import re
from enum import Enum

from cairn_scheduler.sky import complaints

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# What the same request will meet again, however often it is made.
_FINAL = frozenset(
    {
        "ValueError", "TypeError", "InvalidSkyPilotConfigError", "InvalidClusterNameError",
        "NotSupportedError", "NoCloudAccessError", "UserRequestRejectedByPolicy", "PermissionDeniedError",
        "StorageSpecError", "StorageSourceError", "StorageBucketGetError",
        "ClusterOwnerIdentityMismatchError",
    }
)  # fmt: skip
# ResourcesUnavailableError stands both for "there is no such thing" and for "all are taken just now".
_UNAVAILABLE = "ResourcesUnavailableError"
_NEVER = re.compile(
    r"does not contain any instances|not enabled|No cloud access|not support|not found|Invalid|no .* satisf",
    re.IGNORECASE,
)
_MESSAGE = 600


class Kind(Enum):
    """What to do about an error."""

    # No retry can help: the request itself cannot be met.
    REFUSED = "refused"
    # There is such a machine, but not now.
    FULL = "full"
    # It went wrong on the way; another try may work.
    BROKEN = "broken"
    # The cluster is not there.
    GONE = "gone"
    # The server has no memory of the request: it was restarted.
    FORGOTTEN = "forgotten"


class SkyError(Exception):
    """The API server's own answer: it did not work, and why."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        # What SkyPilot printed meanwhile, where that was asked for.
        self.log = ""


class Away(Exception):
    """The API server cannot be reached, or answers nonsense just now."""


def told(name: str, message: str) -> SkyError:
    """The error of an exception that the server raised."""
    words = clean(message)
    if name == _UNAVAILABLE:
        return SkyError(Kind.REFUSED if _NEVER.search(words) else Kind.FULL, words)
    if name == "ClusterDoesNotExist":
        return SkyError(Kind.GONE, words)
    if name in ("RequestCancelled", "RequestInterruptedError"):
        return SkyError(Kind.FORGOTTEN, words)
    return SkyError(Kind.REFUSED if name in _FINAL else Kind.BROKEN, f"{name}: {words}")


def explained(error: SkyError, log: str) -> SkyError:
    """The same error in our words, with what to do, where we know it. `log` is what SkyPilot printed.

    A login node that cannot be reached looks to SkyPilot as if there was no such machine: that may pass.
    """
    away = next((text for text in (str(error), log) if complaints.unreachable(text)), None)
    if away is log and not complaints.about(str(error), log):
        # SkyPilot had looked at others, too.
        away = None
    text = str(error) if away is None else away
    known = complaints.diagnose(text, infra=complaints.place(str(error)))
    kind = error.kind
    if away is not None and kind in (Kind.REFUSED, Kind.FULL):
        kind = Kind.BROKEN
    return SkyError(kind, str(known) if known else str(error))


def clean(text: str) -> str:
    """Without colours, in one line, of a bounded length."""
    lines = (line.strip() for line in _ANSI.sub("", text).splitlines())
    joined = " ".join(line for line in lines if line and not line.startswith("Hint:"))
    return joined if len(joined) <= _MESSAGE else joined[:_MESSAGE] + "..."
