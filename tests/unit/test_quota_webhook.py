"""What a webhook is told, whom it may lead to, and for how long it is tried."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta

import pytest

from cairn_quota.webhook import MOST_ATTEMPTS, Format, Reach, Told, Webhook, body, pause, signature

NOW = datetime(2026, 11, 27, tzinfo=UTC)
FACT = Told("f1", NOW, "vision", "job.finished", "teams/vision/jobs/j1", "users/ada", {"state": "FAILED"})


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1",
        "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a00:1::1",
    ],
)  # fmt: skip
def test_what_is_not_public_is_refused(address: str) -> None:
    assert not Reach().allows(address)
    assert Reach().chosen([address]) == ""
    assert Reach().chosen(["93.184.215.14", address]) == "", "one that may not be is enough"


def test_what_is_public_or_named_by_the_operator_is_spoken_to() -> None:
    assert Reach().chosen(["93.184.215.14"]) == "93.184.215.14"
    assert Reach().allows("2606:4700:4700::1111")
    assert Reach.of("10.1.0.0/16, ::1").allows("10.1.2.3")
    assert Reach.of("10.1.0.0/16").allows("::ffff:10.1.2.3")
    assert not Reach.of("10.1.0.0/16").allows("10.2.2.3")
    assert Reach().chosen([]) == ""


def test_the_signature_is_of_the_time_and_the_body() -> None:
    made = signature("secret", "{}", now=NOW)
    seconds = int(NOW.timestamp())
    expected = hmac.new(b"secret", f"{seconds}.{{}}".encode(), hashlib.sha256).hexdigest()
    assert made == f"t={seconds},v1={expected}"


def test_a_name_is_no_markup_for_slack() -> None:
    told = Told(
        **{**{f: getattr(FACT, f) for f in FACT.__slots__}, "about": {"display_name": "<!channel> & <x>"}}
    )
    assert json.loads(body(told, Format.SLACK))["text"] == (
        "vision: job finished &lt;!channel&gt; &amp; &lt;x&gt;"
    )
    assert json.loads(body(FACT, Format.JSON))["data"] == {
        "name": "teams/vision/jobs/j1", "actor": "users/ada", "state": "FAILED",
    }  # fmt: skip


def test_it_is_told_what_it_asked_for() -> None:
    def wants(*events: str) -> list[bool]:
        hook = Webhook("w", "vision", "", "h", events, Format.JSON, "users/ada", NOW)
        return [hook.wants(event) for event in ("job.finished", "job.running", "jobs.x", "member.added")]

    assert wants() == [True] * 4
    assert wants("job.finished") == [True, False, False, False]
    assert wants("job.", "member.added") == [True, True, False, True]


def test_it_is_tried_ever_more_rarely_for_a_day_and_then_given_up() -> None:
    waits = [pause(attempts) for attempts in range(1, MOST_ATTEMPTS + 1)]
    assert waits[0] == timedelta(seconds=10)
    assert waits[-1] is None
    real = [wait for wait in waits if wait is not None]
    assert real == sorted(real)
    assert timedelta(days=1) < sum(real, timedelta()) < timedelta(days=2)
