"""Runs that were made from other runs: what they begin with is theirs to read, and is kept while they may."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from cairn_common.errors import InvalidArgument
from cairn_common.ids import parse_name
from cairn_tracker.artifacts import VERSION_NAME
from cairn_tracker.manifest import version_number
from cairn_tracker.model import JobFact
from cairn_tracker.store import artifacts as rows
from cairn_tracker.store import keeping


async def with_checkpoint(conn: Any, fact: JobFact, now: datetime) -> JobFact:
    """The fact with the step that its run begins at; the checkpoint is noted as the run's input."""
    if fact.origin is None or not fact.origin.checkpoint:
        return fact
    await keeping.enter(conn, fact.team)
    try:
        parts = parse_name(VERSION_NAME, fact.origin.checkpoint)
    except InvalidArgument:
        return fact
    number = version_number(parts["version"])
    if parts["team"] != fact.team or number is None:
        return fact
    found = await rows.find(conn, fact.team, parts["artifact"], number, entries=False)
    if found is None:
        return fact
    await rows.add_use(conn, fact.team, fact.uid, found.uid, now)
    return replace(fact, origin=replace(fact.origin, step=found.step))
