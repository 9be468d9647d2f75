"""Where people and runners meet: bounded pipes, limits, and a session that is taken once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from cairn.scheduler.v1 import attach_pb2 as pb
from cairn_common.errors import NotFound, ResourceExhausted, Unavailable
from cairn_scheduler.sessions import MOST_SESSIONS_EACH, Meeting, Pipe, Session


def session(uid: str, *, actor: str = "users/ada", attempt: str = "a1", rank: int = 0) -> Session:
    return Session(
        uid=uid, actor=actor, team="main", job_uid="j1", attempt_uid=attempt, attempt_number=1,
        start=pb.AttachStart(rank=rank, port=1), open_time=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip


class Knocks:
    def __init__(self) -> None:
        self.heard: asyncio.Queue[str] = asyncio.Queue()

    async def __call__(self, one: Session) -> None:
        self.heard.put_nowait(one.uid)


async def test_a_writer_waits_for_its_reader_and_what_was_put_before_the_end_is_read() -> None:
    pipe = Pipe[pb.Input]()
    count = 0

    async def write() -> None:
        nonlocal count
        while True:
            await pipe.put(pb.Input(data=b"x" * 65_536))
            count += 1

    writing = asyncio.create_task(write())
    for _ in range(100):
        await asyncio.sleep(0)
    held = count
    assert held * 65_536 <= 2 * 2**20
    items = pipe.items()
    assert len((await anext(items)).data) == 65_536
    for _ in range(10):
        await asyncio.sleep(0)
    assert count == held + 1
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    pipe.close()
    await pipe.put(pb.Input(data=b"too late"))
    assert len([item async for item in items]) == held


async def test_a_runner_that_comes_late_finds_who_waits_and_takes_them_once() -> None:
    knocks = Knocks()
    meeting = Meeting(knocks)
    one = session("s1")
    with meeting.opened(one):
        settling = asyncio.create_task(meeting.settle(one))
        assert await knocks.heard.get() == "s1"
        waiting = meeting.serve("a1", [])
        assert await anext(waiting) == "s1"
        with pytest.raises(NotFound), meeting.carried("s1", attempt_uid="a2"):
            pass
        with meeting.carried("s1", attempt_uid="a1"):
            await settling
            with pytest.raises(NotFound), meeting.carried("s1", attempt_uid="a1"):
                pass
        assert isinstance(one.error, Unavailable)
        await waiting.aclose()


async def test_a_runner_hears_of_its_ranks_alone_and_without_a_knock() -> None:
    knocks = Knocks()
    meeting = Meeting(knocks)
    zero, one = meeting.serve("a1", [0]), meeting.serve("a1", [1])
    heard = {rank: asyncio.create_task(anext(each)) for rank, each in enumerate((zero, one))}
    await asyncio.sleep(0)
    wanted = session("s1", rank=1)
    with meeting.opened(wanted):
        settling = asyncio.create_task(meeting.settle(wanted))
        assert await heard[1] == "s1"
        with meeting.carried("s1", attempt_uid="a1"):
            await settling
    assert not heard[0].done()
    assert knocks.heard.empty()
    heard[0].cancel()
    await asyncio.gather(heard[0], return_exceptions=True)
    await one.aclose()


async def test_nobody_opens_more_than_their_share() -> None:
    meeting = Meeting(Knocks())
    opened = [meeting.opened(session(f"s{number}")) for number in range(MOST_SESSIONS_EACH)]
    for each in opened:
        each.__enter__()
    with pytest.raises(ResourceExhausted), meeting.opened(session("more")):
        pass
    with meeting.opened(session("other", actor="users/bob")):
        pass
    for each in opened:
        each.__exit__(None, None, None)
    with meeting.opened(session("again")):
        pass
