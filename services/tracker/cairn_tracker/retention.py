"""Rules by which versions go by themselves, and the work of letting them go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import FailedPrecondition, InvalidArgument, NotFound
from cairn_common.ids import check_id
from cairn_tracker import wire
from cairn_tracker.keeping import Keeping, holders
from cairn_tracker.store import artifacts as rows
from cairn_tracker.store import keeping as store
from cairn_tracker.store import retention as outlived
from cairn_tracker.store.artifacts import Version
from cairn_tracker.store.keeping import Rule

log = structlog.get_logger(__name__)

MOST_RULES: Final = 100
_MOST_KEPT: Final = 1_000_000
_LONGEST: Final = 100 * 366 * 86_400.0
_PAGE: Final = 100
_MOST_A_ROUND: Final = 1_000


@dataclass(frozen=True, slots=True)
class Outlived:
    """A version that no rule keeps (any more), and who keeps it nevertheless: a run that is not over, or a
    promoted model that was made from it."""

    version: Version
    held: Sequence[str]


def check(rules: Sequence[Rule]) -> None:
    """Raises InvalidArgument for a rule that says nothing, or cannot be meant."""
    if len(rules) > MOST_RULES:
        raise InvalidArgument(f"retention: at most {MOST_RULES} rules can be given", field="retention")
    seen = set()
    for place, rule in enumerate(rules):
        where = f"retention[{place}]"
        if not rule.kind:
            raise InvalidArgument(f"{where}.kind: say of which kind of artifact", field=where)
        if rule.experiment:
            check_id(rule.experiment, f"{where}.experiment")
        if (rule.kind, rule.experiment) in seen:
            raise InvalidArgument(f"{where}: there is another rule for this kind and experiment", field=where)
        seen.add((rule.kind, rule.experiment))
        _check_amounts(rule, where)


def _check_amounts(rule: Rule, where: str) -> None:
    if not (rule.keep_last or rule.keep_best or rule.keep_for):
        raise InvalidArgument(f"{where}: give keep_last, keep_best or keep_for", field=where)
    for name, amount in (("keep_last", rule.keep_last), ("keep_best", rule.keep_best)):
        if not 0 <= amount <= _MOST_KEPT:
            raise InvalidArgument(
                f"{where}.{name}: {amount} is not in 1 to {_MOST_KEPT:,}", field=f"{where}.{name}"
            )
    if not 0 <= rule.keep_for <= _LONGEST:
        raise InvalidArgument(f"{where}.keep_for: it is not in 1 s to 100 years", field=where)
    if bool(rule.keep_best) != bool(rule.metric):
        raise InvalidArgument(f"{where}: keep_best needs a metric, and a metric keep_best", field=where)


class Retention:
    """Lets versions go that no rule keeps and nobody holds."""

    def __init__(self, *, db: Database, keeping: Keeping, clock: Clock) -> None:
        self._db = db
        self._keeping = keeping
        self._clock = clock

    async def look(
        self, team: str, rules: Sequence[Rule] | None, *, after: int, limit: int
    ) -> tuple[list[Outlived], int | None]:
        """What would go now by these rules (None: the team's own), oldest first, and where the next page
        begins."""
        if rules is None:
            rules = (await store.rules(self._db, team)).retention
        page = await outlived.outlived(self._db, team, rules, now=self._clock.now(), after=after, limit=limit)
        found = []
        for artifact, number, _ in page:
            version = await rows.find(self._db, team, artifact, number, entries=False)
            if version is not None:
                found.append(Outlived(version, await holders(self._db, version)))
        return found, page[-1][2] if len(page) == limit else None

    async def step(self) -> int:
        """Applies the rules of all teams; returns how many versions went."""
        gone = 0
        for team in await store.teams_with_rules(self._db):
            async for version in self._due(team):
                try:
                    await self._keeping.delete(version, actor=wire.ACTOR)
                except (FailedPrecondition, NotFound):
                    continue  # somebody holds it, or was faster
                gone += 1
                if gone >= _MOST_A_ROUND:
                    return gone
        return gone

    async def _due(self, team: str) -> AsyncIterator[Version]:
        after: int | None = 0
        while after is not None:
            page, after = await self.look(team, None, after=after, limit=_PAGE)
            for each in page:
                if not each.held:
                    yield each.version
