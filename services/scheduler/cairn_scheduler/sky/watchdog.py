"""The safety net: one look at all clusters every now and then, for attempts that say nothing any more."""

from __future__ import annotations

import asyncio
import time
from typing import NoReturn

import structlog

from cairn_scheduler.causes import Evidence
from cairn_scheduler.sky import records
from cairn_scheduler.sky.api import Api
from cairn_scheduler.sky.cluster import SkyCluster, Watched
from cairn_scheduler.sky.errors import Away, Kind, SkyError

log = structlog.get_logger(__name__)

# Where there is nothing of ours it is enough to look this much less often.
_IDLE = 6
# Five beats.
_SILENCE_SECONDS = 75.0
# A cluster that is just being made may not be listed yet; one that is just gone may be twice.
_MISSING_ROUNDS = 2
_FINAL = frozenset({"SUCCEEDED", "FAILED", "FAILED_SETUP", "FAILED_DRIVER", "CANCELLED"})


async def watch(cluster: SkyCluster, api: Api, *, pause: float) -> NoReturn:
    """Looks for ever, every `pause` seconds. Unknown clusters that bear our name are taken away when they are
    seen twice."""
    suspects: set[str] = set()
    while True:
        try:
            found = await api.clusters()
            # Together: one node that does not answer must not keep the others waiting.
            known = list(cluster.watched.values())
            await asyncio.gather(*(_look(cluster, api, watched, found) for watched in known))
            strangers = {name for name in found if _stranger(cluster, name)}
            for name in strangers & suspects:
                log.warning("sky.orphan", cluster=name)
                await cluster.remove(name)
            suspects = strangers
        except (Away, SkyError) as error:
            log.warning("sky.watch_waiting", error=str(error))
        busy = bool(cluster.watched or suspects)
        await asyncio.sleep(pause if busy else pause * _IDLE)


def _stranger(cluster: SkyCluster, name: str) -> bool:
    uid = cluster.attempt_of(name)
    return uid is not None and uid not in cluster.watched


async def _look(cluster: SkyCluster, api: Api, watched: Watched, found: dict[str, str]) -> None:
    record = watched.record
    if watched.ended or record.phase != records.UP:
        return
    now = time.monotonic()
    if record.cluster not in found:
        watched.missing += 1
        if watched.missing >= _MISSING_ROUNDS:
            cluster.end(watched, _lost(watched, "its cluster is gone"))
        return
    watched.missing = 0
    last = max(watched.ranks.heard, watched.asked)
    if now - last < _SILENCE_SECONDS:
        return
    watched.asked = now
    try:
        states = await api.job_states(record.cluster)
        # The first of them is the attempt; those behind it found its lock taken, and ended at once.
        state = "" if any(one not in _FINAL for one in states) else "".join(states[-1:])
    except Away as error:
        log.warning("sky.watch_waiting", error=str(error))
        return
    except SkyError as error:
        # The node does not answer, or the allocation has ended.
        state = "FAILED_DRIVER" if error.kind in (Kind.GONE, Kind.BROKEN) else ""
        log.warning("sky.node_silent", attempt=record.uid, error=str(error))
    log.warning("attempt.silent", attempt=record.uid, state=state)
    if state in _FINAL and not watched.ended:
        words = await api.last_words(record.cluster)
        cluster.end(watched, _silent_end(watched, state, words))


def _silent_end(watched: Watched, state: str, words: list[str]) -> Evidence:
    if watched.ranks.heard or state in ("FAILED_DRIVER", "CANCELLED"):
        return _lost(watched, f"SkyPilot says {state}")
    # The runner never said a word: it could not be installed, or could not reach the bus.
    tail = "; ".join(words[-3:])
    return Evidence(message=f"The runner did not begin ({state}): {tail}"[:1000], end_time=time.time())


def _lost(watched: Watched, why: str) -> Evidence:
    return Evidence(lost=True, message=why, start_time=watched.ranks.start_time, end_time=time.time())
