"""SkyPilot's API server is away when an attempt is to be launched: that is said, and nobody is stuck."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from cairn_common.bus import connect
from cairn_common.ids import new_uid
from cairn_common.subjects import STREAMS
from cairn_scheduler.cluster import Ended, Order, Stepped
from cairn_scheduler.model import Code, Resources, Spec
from cairn_scheduler.sky.opening import open_sky
from cairn_scheduler.sky.order import Surroundings
from cairn_server import ports
from tests.harness.streams import of_jobs


async def test_a_launch_that_waits_for_the_api_server_says_so_once_and_can_be_stopped(
    nats_url: str, tmp_path: Path
) -> None:
    async with connect(nats_url, name="test") as bus:
        await of_jobs(bus)
        await bus.ensure_stream("SCHEDULER", STREAMS["SCHEDULER"])
    nobody = f"http://127.0.0.1:{ports.free(['sky'])['sky']}"
    task = json.dumps({"run": "true", "resources": {"infra": "slurm/lab", "cpus": 1}})
    spec = Spec(task=task, setup="", run="true", resources=Resources(1000, 0))
    order = Order("main", new_uid(), new_uid(), 1, "", spec, Code(), "secret")
    heard: list[object] = []
    async with (
        asyncio.timeout(60),
        open_sky(
            tmp_path / "sky", api_url=nobody, around=Surroundings("", nats_url), nats_url=nats_url, seed=None
        ) as cluster,
    ):
        await cluster.launch(order)
        async for report in cluster.reports():
            heard.append(report)
            if isinstance(report, Stepped):
                await cluster.stop(order.attempt_uid)
            if isinstance(report, Ended):
                break
    said, end = heard
    assert isinstance(said, Stepped)
    assert "API server does not answer" in said.text
    assert isinstance(end, Ended)
    assert end.evidence.stopped
