"""What every place to run has to hold. One suite; each implementation is a parameter of `cluster`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cairn.job.v1 import events_pb2
from cairn_common.bus import connect
from cairn_common.ids import new_uid
from cairn_common.subjects import STREAMS, team_stream
from cairn_scheduler import local, processes
from cairn_scheduler.causes import Evidence
from cairn_scheduler.cluster import Cluster, Ended, LaunchFailed, Order, Quiet, Remains, Report, Started
from cairn_scheduler.local import open_local
from cairn_scheduler.model import Code, Resources, Spec
from cairn_scheduler.sky.opening import open_sky
from cairn_scheduler.sky.order import Surroundings
from tests.harness.slurm import CLUSTER, Slurm
from tests.harness.streams import of_jobs

# Slurm's own start, the first time, is the longest part.
SLOW = pytest.mark.timeout(1200)


class Place:
    """A cluster that can be opened again, as a new scheduler does."""

    infra = "local"
    patience = 30.0

    def __init__(self, folder: Path, bus_url: str) -> None:
        self.folder = folder
        self.bus_url = bus_url

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Cluster]:
        """The cluster while the block runs."""
        capacity = Resources(4000, 2, "", 4096)
        async with open_local(self.folder, capacity=capacity, url="", bus_url=self.bus_url) as made:
            yield made


class OnSlurm(Place):
    """Slurm, by way of SkyPilot."""

    infra = f"slurm/{CLUSTER}"
    patience = 300.0

    def __init__(self, folder: Path, bus_url: str, api_url: str) -> None:
        super().__init__(folder, bus_url)
        self.api_url = api_url

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Cluster]:
        """The cluster while the block runs."""
        around = Surroundings("", self.bus_url)
        async with open_sky(
            self.folder / "sky", api_url=self.api_url, around=around, nats_url=self.bus_url, seed=None
        ) as made:
            yield made


@pytest.fixture
async def place(nats_url: str, tmp_path: Path) -> Place:
    """This machine."""
    await streams(nats_url)
    return Place(tmp_path / "data", nats_url)


@pytest.fixture(params=["local", "slurm"])
async def anywhere(request: pytest.FixtureRequest, nats_url: str, tmp_path: Path) -> Place:
    """Each implementation in turn."""
    await streams(nats_url)
    if request.param == "local":
        return Place(tmp_path / "data", nats_url)
    slurm: Slurm = request.getfixturevalue("slurm_cluster")
    return OnSlurm(tmp_path / "data", nats_url, slurm.url)


async def streams(nats_url: str) -> None:
    async with connect(nats_url, name="test") as bus:
        await of_jobs(bus)
        await bus.ensure_stream("SCHEDULER", STREAMS["SCHEDULER"])


def order(
    run: str,
    *,
    setup: str = "",
    nodes: int = 1,
    gpus: int = 0,
    grace: float = 5.0,
    infra: str = "local",
    **more: Any,
) -> Order:
    resources = {"infra": infra, "cpus": 1, "memory": 1, **more}
    spec = Spec(
        task=json.dumps({"run": run, "resources": resources}), setup=setup, run=run, num_nodes=nodes,
        resources=Resources(1000, gpus), grace=grace,
    )  # fmt: skip
    return Order("main", new_uid(), new_uid(), 1, "", spec, Code(), "secret")


async def all_ended(cluster: Cluster, orders: list[Order], *, patience: float) -> dict[str, Evidence]:
    """How each of these attempts ended, by its uid."""
    found: dict[str, Evidence] = {}
    async with asyncio.timeout(patience):
        async for report in cluster.reports():
            if isinstance(report, Ended):
                assert report.attempt_uid not in found, "an end is told once"
                found[report.attempt_uid] = report.evidence
            if all(one.attempt_uid in found for one in orders):
                return found
    raise AssertionError("reports ended")


async def quiet(cluster: Cluster, orders: list[Order], *, patience: float) -> None:
    """Returns when nothing works for these attempts any more, and they are tidied."""
    async with asyncio.timeout(patience):
        left = {one.attempt_uid for one in orders}
        while left:
            for uid in list(left):
                if await cluster.remains(uid) is not Remains.BUSY:
                    await cluster.tidy(uid)
                    left.discard(uid)
            await asyncio.sleep(0.2)


async def said(bus_url: str, one: Order, text: str, *, ranks: set[int]) -> None:
    """Returns when each of these ranks has printed a line."""
    subject = f"cairn.v1.job.run.lines-logged.main.{one.run_uid}"
    left = set(ranks)
    async with (
        connect(bus_url, name="test") as bus,
        asyncio.timeout(60),
        aclosing(bus.tail(stream=team_stream("main"), subjects=[subject], start_sequence=1)) as messages,
    ):
        async for message in messages:
            lines = events_pb2.JobEvent.FromString(message.data).lines_logged.lines
            left -= {line.rank for line in lines if line.text == text}
            if not left:
                return


@SLOW
async def test_ends_are_told_with_their_causes_everywhere(anywhere: Place) -> None:
    """A job that ends well, a gang, one that fails in setup, one in run, each with its last words."""
    where = {"infra": anywhere.infra}
    ranks = 'echo "rank $RANK of $WORLD_SIZE, node $NODE_RANK, at $MASTER_ADDR:$MASTER_PORT"'
    good = order("python -c 'import cairn; print(cairn.__name__)'", **where)
    gang = order(f"{ranks}; [ $RANK = 0 ] && exit 0; {ranks} >&2; exit 4", nodes=2, **where)
    unprepared = order("echo never", setup="echo preparing; exit 9", **where)
    bad = order("echo last; exit 3", **where)
    orders = [good, gang, unprepared, bad]
    if isinstance(anywhere, OnSlurm):
        # Each costs a minute of work there; the other two run in `tests/e2e/test_everywhere.py`.
        orders = [good, gang]
    async with anywhere.open() as cluster:
        for one in orders:
            await cluster.launch(one)
        ends = await all_ended(cluster, orders, patience=anywhere.patience)
        expected = {
            good.attempt_uid: (0, "run", 0, "cairn"),
            gang.attempt_uid: (4, "run", 1, "rank 1 of 2, node 1, at 127.0.0.1:"),
            unprepared.attempt_uid: (9, "setup", 0, "preparing"),
            bad.attempt_uid: (3, "run", 0, "last"),
        }
        for one in orders:
            end = ends[one.attempt_uid]
            *how, words = expected[one.attempt_uid]
            assert [end.exit_code, end.phase, end.rank] == how, end
            assert end.last_lines[-1].startswith(words), end
        await quiet(cluster, orders, patience=120)
        assert await cluster.list() == set()


@SLOW
async def test_what_runs_is_found_again_and_stopped_gently_everywhere(anywhere: Place) -> None:
    waits = order(
        "trap 'echo bye; exit 0' TERM; echo here; while true; do sleep 0.1; done",
        nodes=2,
        infra=anywhere.infra,
    )
    async with anywhere.open() as cluster:
        await asyncio.gather(*(cluster.launch(waits) for _ in range(3)))
        await until(cluster, Started, waits.attempt_uid, patience=anywhere.patience)
    async with anywhere.open() as cluster:
        # One whose launch is not known to be done is ordered again by the loop; that starts nothing twice.
        await cluster.launch(waits)
        assert await cluster.list() == {waits.attempt_uid}
        await said(anywhere.bus_url, waits, "here", ranks={0, 1})
        await cluster.stop(waits.attempt_uid)
        await cluster.stop(waits.attempt_uid)
        ends = await all_ended(cluster, [waits], patience=60)
        end = ends[waits.attempt_uid]
        assert end.stopped, end
        assert end.last_lines[0] == "here", end
        assert end.last_lines[-1] == "bye", end
        await quiet(cluster, [waits], patience=120)


@SLOW
async def test_what_slurm_does_not_have_is_refused_and_leaves_nothing(anywhere: Place) -> None:
    if not isinstance(anywhere, OnSlurm):
        pytest.skip("this machine refuses such a job before it is an attempt")
    orders = [
        order("true", infra=anywhere.infra, cpus=999),
        order("true", infra=anywhere.infra, accelerators="NOSUCH:1"),
        order("true", infra="slurm/nowhere"),
    ]
    async with anywhere.open() as cluster:
        for one in orders:
            await cluster.launch(one)
        ends = await all_ended(cluster, orders, patience=60)
        assert all(end.refused and end.message for end in ends.values()), ends
        await quiet(cluster, orders, patience=60)


async def until(cluster: Cluster, kind: type[Report], uid: str, *, patience: float = 30.0) -> Report:
    """The next report of a kind about an attempt."""
    async with asyncio.timeout(patience):
        async for report in cluster.reports():
            if isinstance(report, kind) and report.attempt_uid == uid:
                return report
    raise AssertionError("reports ended")


async def ended(cluster: Cluster, uid: str) -> Ended:
    report = await until(cluster, Ended, uid)
    assert isinstance(report, Ended)
    return report


async def test_an_attempt_begins_and_ends_with_its_exit_code(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a service has it that was started with so many files, and took more for itself.
    monkeypatch.setenv("CAIRN_SOFT_FILES", "200")
    async with place.open() as cluster:
        one = order("sleep 0.3; ulimit -Sn; exit 3")
        await cluster.launch(one)
        begun = await until(cluster, Started, one.attempt_uid)
        assert isinstance(begun, Started)
        assert len(begun.pids) == 1
        end = await ended(cluster, one.attempt_uid)
        assert (end.evidence.exit_code, end.evidence.phase, end.evidence.lost) == (3, "run", False)
        assert end.evidence.last_lines[-1] == "200"


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
