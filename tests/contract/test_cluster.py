"""What every place to run has to hold. One suite; each implementation is a parameter of `cluster`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cairn_common.bus import connect
from cairn_common.ids import new_uid
from cairn_common.subjects import STREAMS
from cairn_scheduler import local, processes
from cairn_scheduler.cluster import Cluster, Ended, LaunchFailed, Order, Quiet, Remains, Report, Started
from cairn_scheduler.local import open_local
from cairn_scheduler.model import Code, Resources, Spec


class Place:
    """A cluster that can be opened again, as a new scheduler does."""

    def __init__(self, folder: Path, bus_url: str) -> None:
        self.folder = folder
        self.bus_url = bus_url

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Cluster]:
        """The cluster while the block runs."""
        capacity = Resources(4000, 2, "", 4096)
        async with open_local(self.folder, capacity=capacity, url="", bus_url=self.bus_url) as made:
            yield made


@pytest.fixture(params=["local"])
async def place(request: pytest.FixtureRequest, nats_url: str, tmp_path: Path) -> Place:
    assert request.param == "local"
    async with connect(nats_url, name="test") as bus:
        await bus.ensure_stream("JOB", STREAMS["JOB"])
    return Place(tmp_path / "data", nats_url)


def order(run: str, *, gpus: int = 0, grace: float = 5.0) -> Order:
    spec = Spec(task="", setup="", run=run, resources=Resources(1000, gpus), grace=grace)
    return Order("main", new_uid(), new_uid(), 1, "", spec, Code(), "secret")


async def until(cluster: Cluster, kind: type[Report], uid: str) -> Report:
    """The next report of a kind about an attempt."""
    async with asyncio.timeout(30):
        async for report in cluster.reports():
            if isinstance(report, kind) and report.attempt_uid == uid:
                return report
    raise AssertionError("reports ended")


async def ended(cluster: Cluster, uid: str) -> Ended:
    report = await until(cluster, Ended, uid)
    assert isinstance(report, Ended)
    return report


async def test_an_attempt_begins_and_ends_with_its_exit_code(place: Place) -> None:
    async with place.open() as cluster:
        one = order("sleep 0.3; echo last; exit 3")
        await cluster.launch(one)
        begun = await until(cluster, Started, one.attempt_uid)
        assert isinstance(begun, Started)
        assert len(begun.pids) == 1
        end = await ended(cluster, one.attempt_uid)
        assert (end.evidence.exit_code, end.evidence.phase, end.evidence.lost) == (3, "run", False)
        assert end.evidence.last_lines[-1] == "last"


async def test_launching_twice_starts_once(place: Place, tmp_path: Path) -> None:
    async with place.open() as cluster:
        one = order(f"echo x >> {tmp_path}/ran")
        await asyncio.gather(*(cluster.launch(one) for _ in range(3)))
        await ended(cluster, one.attempt_uid)
        await cluster.launch(one)
        assert await cluster.list() == {one.attempt_uid}
        assert (tmp_path / "ran").read_text() == "x\n"


async def test_stopping_is_gentle_and_then_firm(place: Place, tmp_path: Path) -> None:
    async with place.open() as cluster:
        soft = order(f"trap 'touch {tmp_path}/bye; exit 0' TERM; while true; do sleep 0.05; done")
        hard = order("trap '' TERM; while true; do sleep 0.05; done", grace=0.3)
        for one in (soft, hard):
            await cluster.launch(one)
            await until(cluster, Started, one.attempt_uid)
        for one in (soft, hard):
            await cluster.stop(one.attempt_uid)
            await cluster.stop(one.attempt_uid)
            assert (await ended(cluster, one.attempt_uid)).evidence.stopped
        await cluster.stop(new_uid())


async def test_a_new_scheduler_finds_what_runs_and_what_has_ended(place: Place, tmp_path: Path) -> None:
    stays = order(f"until test -e {tmp_path}/go; do sleep 0.05; done", gpus=2)
    gone = order("exit 7")
    async with place.open() as cluster:
        for one in (stays, gone):
            await cluster.launch(one)
        await ended(cluster, gone.attempt_uid)
    async with place.open() as cluster:
        assert await cluster.list() == {stays.attempt_uid, gone.attempt_uid}
        assert (await ended(cluster, gone.attempt_uid)).evidence.exit_code == 7
        with pytest.raises(LaunchFailed, match="0 are free"):
            await cluster.launch(order("true", gpus=1))
        await cluster.launch(stays)
        (tmp_path / "go").touch()
        assert (await ended(cluster, stays.attempt_uid)).evidence.exit_code == 0
        again = order("true", gpus=2)
        await cluster.launch(again)
        assert (await ended(cluster, again.attempt_uid)).evidence.exit_code == 0


async def test_an_attempt_whose_supervision_dies_is_ended_and_reported_lost(place: Place) -> None:
    async with place.open() as cluster:
        one = order("sleep 600 & sleep 600")
        await cluster.launch(one)
        await until(cluster, Started, one.attempt_uid)
        runner = processes.runner_of(one.attempt_uid)
        assert runner is not None
        processes.kill(runner)
        end = await ended(cluster, one.attempt_uid)
        assert end.evidence.lost
        assert processes.of_attempt(one.attempt_uid) == []


async def test_what_is_unshipped_is_kept_and_what_is_tidied_is_forgotten(place: Place) -> None:
    # Nothing listens there: what runners ship stays unshipped.
    place.bus_url = "nats://127.0.0.1:1"
    async with place.open() as cluster:
        one = order("echo said")
        await cluster.launch(one)
        await ended(cluster, one.attempt_uid)
        # Its runner still tries to ship; it gives up when it is told to stop.
        assert await cluster.remains(one.attempt_uid) is Remains.BUSY
        runner = processes.runner_of(one.attempt_uid)
        assert runner is not None
        processes.kill(runner)
        await until(cluster, Quiet, one.attempt_uid)
        assert await cluster.remains(one.attempt_uid) is Remains.UNSHIPPED
        await cluster.ship(one.attempt_uid, token="another")
        assert await cluster.remains(one.attempt_uid) is Remains.BUSY
        for process in processes.of_attempt(one.attempt_uid):
            processes.kill(process)
        await until(cluster, Quiet, one.attempt_uid)
        await cluster.tidy(one.attempt_uid)
        assert await cluster.list() == set()
        assert await cluster.remains(one.attempt_uid) is Remains.SHIPPED
    async with place.open() as cluster:
        assert await cluster.list() == set()


async def test_a_lost_hint_is_made_up_for_however_much_else_happens(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_LOOK_SECONDS", 0.2)
    async with place.open() as cluster:
        assert isinstance(cluster, local.LocalCluster)
        # Nobody hears the runner, and reports of others never cease.
        (place.folder / "notify.sock").unlink()
        one = order("sleep 60")
        await cluster.launch(one)
        async with asyncio.timeout(30):
            others = asyncio.create_task(busy(cluster))
            try:
                await until(cluster, Started, one.attempt_uid)
            finally:
                others.cancel()
        await cluster.stop(one.attempt_uid)
        assert (await ended(cluster, one.attempt_uid)).evidence.stopped


async def busy(cluster: local.LocalCluster) -> None:
    """Reports of others, ten in the time after which a quiet cluster would look."""
    while True:
        cluster._reports.put_nowait(Quiet(new_uid()))
        await asyncio.sleep(0.02)


async def test_a_place_that_cannot_be_written_to_says_so(place: Place) -> None:
    async with place.open() as cluster:
        one = order("true")
        # A file where the attempt's folder would be.
        (place.folder / "attempts" / one.attempt_uid).write_text("")
        with pytest.raises(LaunchFailed, match="could not be set up"):
            await cluster.launch(one)
        assert await cluster.list() == set()
