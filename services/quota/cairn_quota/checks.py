"""What requests to quota must look like. Each check returns the value or raises InvalidArgument."""

from __future__ import annotations

from datetime import datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from cairn.quota.v1 import plan_pb2, quota_pb2, team_pb2
from cairn_common.errors import InvalidArgument, Reason
from cairn_common.ids import check_uid, parse_name
from cairn_quota import wire
from cairn_quota.model import Amounts, Limits
from cairn_quota.reservation_rows import resources_of

LARGEST = 10**12
"""Of any one amount or limit, so that sums stay far inside 64 bits."""
LONGEST_TTL = timedelta(days=3650)
RESERVATION_ID = "must be `{job uid}-{admission number}`, the number from 1 on"
LIMITS = ("gpus", "cpu_milli", "jobs")


def text(value: str, field: str, *, most: int = 200) -> str:
    """A text for people: at most `most` characters, none of them a control character."""
    if len(value) > most or any(character < " " or character == "\x7f" for character in value):
        raise invalid(field, f"at most {most} characters, no line breaks or other control characters")
    return value


def amounts(message: team_pb2.Amounts) -> Amounts:
    """Amounts to hold: none negative, and something at all."""
    value = Amounts(gpus=message.gpus, cpu_milli=message.cpu_milli, jobs=message.jobs)
    for name in LIMITS:
        _in_range(getattr(value, name), f"amounts.{name}")
    if value == Amounts():
        raise invalid("amounts", "at least one of gpus, cpu_milli, jobs must be above 0")
    return value


def limits(message: team_pb2.Limits) -> Limits:
    """Limits of a team: absent or not negative."""
    value = wire.limits_value(message)
    for name in LIMITS:
        limit = getattr(value, name)
        if limit is not None:
            _in_range(limit, f"limits.{name}")
    return value


def hold(request: quota_pb2.ReserveQuotaRequest) -> plan_pb2.Hold:
    """What a request to reserve asks for, as a plan would; its parent, job and id must agree."""
    team = parse_name("teams/{team}", request.parent)["team"]
    job = parse_name("teams/{team}/jobs/{job}", request.job)
    uid = check_uid(job["job"], "job")
    if job["team"] != team:
        raise invalid("job", f"is not a job of the team {team}")
    prefix, number = _reservation_id(request.reservation_id)
    if prefix != uid:
        raise invalid("reservation_id", RESERVATION_ID)
    made = plan_pb2.Hold(
        name=f"teams/{team}/reservations/{uid}-{number}",
        node=request.node,
        flavor=request.flavor,
        amounts=resources_of(amounts(request.amounts)),
        user=request.user,
        project=request.project,
        price_micros_per_hour=request.price_micros_per_hour,
        priority_class=request.priority_class,
    )
    if request.HasField("max_runtime"):
        made.max_runtime.CopyFrom(request.max_runtime)
    return made


def reservation_name(name: str) -> tuple[str, str, int]:
    """Team, job uid and admission number of a reservation's name."""
    parts = parse_name("teams/{team}/reservations/{reservation}", name)
    uid, number = _reservation_id(parts["reservation"])
    return parts["team"], check_uid(uid, "name"), number


def _reservation_id(id: str) -> tuple[str, int]:
    prefix, _, number = id.rpartition("-")
    if not number.isascii() or not number.isdigit() or str(int(number[:9])) != number:
        raise invalid("reservation_id", RESERVATION_ID)
    if int(number) < 1:
        raise invalid("reservation_id", "admissions count from 1")
    return prefix, int(number)


def ttl(message: Duration, field: str = "ttl") -> timedelta:
    """A time to live above zero."""
    try:
        value = message.ToTimedelta()
    except (ValueError, OverflowError):
        value = timedelta()
    if not timedelta() < value <= LONGEST_TTL:
        raise invalid(field, f"must be above 0 s and at most {LONGEST_TTL.days} days")
    return value


def time(message: Timestamp, field: str) -> datetime:
    """A moment of the years 1 to 9999."""
    try:
        return wire.moment(message)
    except (ValueError, OverflowError):
        raise invalid(field, "is not a moment of the years 1 to 9999") from None


def invalid(field: str, problem: str) -> InvalidArgument:
    """The error for a field that cannot be used."""
    return InvalidArgument(f"{field}: {problem}", reason=Reason.FIELD_INVALID, field=field)


def _in_range(value: int, field: str) -> None:
    if not 0 <= value <= LARGEST:
        raise invalid(field, f"must be from 0 to {LARGEST:,}, not {value:,}")
