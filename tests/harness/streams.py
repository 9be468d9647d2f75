"""What jobs tell, as it lies in a stream of a real bus."""

from __future__ import annotations

import nats

from cairn.job.v1 import events_pb2
from cairn_common.bus import Bus
from cairn_common.subjects import STREAMS, team_stream, team_subjects

SUBJECTS = "cairn.v1.job.>"


async def of_jobs(bus: Bus, *, team: str = "main") -> None:
    """Those that a team's jobs publish into, as the quota service and the tracker make them."""
    await bus.ensure_stream(team_stream(team), team_subjects(team))
    await bus.ensure_stream("ATTEMPT", STREAMS["ATTEMPT"])


async def make(url: str, *, batches: bool = True) -> None:
    """The stream that takes it; one without `batches` is as an older tracker made it."""
    client = await nats.connect(url)
    await client.jetstream().add_stream(name="JOB", subjects=[SUBJECTS], allow_atomic=batches)
    await client.close()


async def read(url: str) -> list[events_pb2.JobEvent]:
    """All that has come so far, in order."""
    client = await nats.connect(url)
    js = client.jetstream()
    left = (await js.stream_info("JOB")).state.messages
    found = []
    if left:
        subscription = await js.subscribe(SUBJECTS, ordered_consumer=True)
        while len(found) < left:
            message = await subscription.next_msg(timeout=30)
            found.append(events_pb2.JobEvent.FromString(message.data))
    await client.close()
    return found
