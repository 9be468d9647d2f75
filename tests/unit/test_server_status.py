"""What `cairn status` says of what is logged and not stored yet."""

from __future__ import annotations

import pytest

from cairn_server.status import Backlog

LIMIT = 1000 * 2**20


@pytest.mark.parametrize(
    ("held", "limit", "full"),
    [
        (LIMIT * 9 // 10 - 1, LIMIT, False),
        (LIMIT * 9 // 10, LIMIT, True),
        (LIMIT, LIMIT, True),
        (LIMIT, 0, False),  # an older gateway, which does not say what the limit is
    ],
)
def test_a_bus_is_called_full_from_nine_tenths_of_its_limit_on(held: int, limit: int, full: bool) -> None:
    told = Backlog(messages=12_345, oldest_seconds=61.4, bytes=held, limit_bytes=limit).words()
    assert told[0].startswith("logged, and not stored yet: 12,345 messages, the oldest since 61 s;")
    assert [line.startswith("it is full") for line in told[1:]] == [True] * full


def test_a_bus_that_keeps_what_was_taken_in_is_not_full_of_anything() -> None:
    backlog = Backlog(messages=0, oldest_seconds=0.0, bytes=LIMIT, limit_bytes=LIMIT)
    assert backlog.words() == ["all that was logged is stored"]
