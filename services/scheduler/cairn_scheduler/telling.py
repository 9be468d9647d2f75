"""Why a job waits, in a sentence for people: the engine's reason with its evidence. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from cairn_scheduler.engine.world import ANY, Code, Reason

_UNITS = {"gpu": "GPUs", "cpu": "CPUs", "mem": "MiB of memory", "jobs": "jobs at a time"}


def sentence(reason: Reason) -> str:
    """`QuotaFull: vision may use 8 h100 GPUs, 8 are used, and this job asks for 2`."""
    return f"{reason.code.value}: {_told(reason)}"


def _told(reason: Reason) -> str:
    match reason.code:
        case Code.HELD | Code.CAPACITY_FULL | Code.GANG_FRAGMENTED | Code.NO_MATCHING_FLAVOR if reason.note:
            return reason.note
        case Code.RETRY_WAIT:
            return f"the next attempt comes after {_time(reason.until)}"
        case Code.DEPENDENCY_WAIT:
            return f"it waits for {_jobs(reason)} to end"
        case Code.WAITING_FOR_VICTIMS:
            when = f", by {_time(reason.until)}" if reason.until else ""
            if reason.note:
                return f"{_jobs(reason)} may have to give way to it once run long enough, or saved{when}"
            return f"{_jobs(reason)} give their place up for it{when}"
        case Code.RESERVED_FOR:
            return f"the place is kept for {_jobs(reason) if reason.others else reason.note or reason.node}"
        case Code.CIRCUIT_OPEN:
            return f"there was no capacity of {reason.flavor}; asked again after {_time(reason.until)}"
        case Code.BUDGET_EXHAUSTED:
            return f"budget {reason.note} of {reason.node} is spent"
        case Code.BUDGET_UNSAFE:
            return f"its longest run does not fit into what budget {reason.note} of {reason.node} has left"
        case Code.NOT_EVALUATED:
            return reason.note or "the engine has not looked at it yet"
        case _:
            return _limit(reason)


def _limit(reason: Reason) -> str:
    if not reason.resource or reason.resource == "runtime":
        return reason.note or f"node {reason.node} does not allow it"
    what, where = _what(reason), reason.node or reason.note
    if reason.code is Code.EXCEEDS_MAX:
        return (
            f"{where} may use at most {_amount(reason.limit)} {what}, and this job asks for "
            f"{_amount(reason.requested)}"
        )
    told = (
        f"{where} may use {_amount(reason.limit)} {what}, {_amount(reason.used)} are used, and this job asks "
        f"for {_amount(reason.requested)}"
    )
    return f"{told}{_WHY.get(reason.code, '')}"


_WHY = {
    Code.LENDING_LIMITED: "; others have some idle, but do not lend it",
    Code.FAIR_SHARE_BEHIND: "; others borrow, and are entitled to it as much",
    Code.PRIORITY_BEHIND: "; others borrow, and none of lower priority",
}


def _what(reason: Reason) -> str:
    unit = _UNITS.get(reason.resource, reason.resource)
    return unit if reason.flavor in ("", ANY, "default") else f"{reason.flavor} {unit}"


def _amount(milli: int) -> str:
    return f"{milli / 1000:g}"


def _jobs(reason: Reason) -> str:
    count = len(reason.others)
    return f"job {reason.others[0]}" if count == 1 else f"{count} jobs ({', '.join(reason.others[:3])})"


def _time(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
