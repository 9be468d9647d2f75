"""The engine, kept from one decision to the next, and told what has changed in between. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from cairn_scheduler import snapshot
from cairn_scheduler.engine import world
from cairn_scheduler.engine.decide import Engine, Gone
from cairn_scheduler.engine.world import Plan
from cairn_scheduler.places import Place
from cairn_scheduler.snapshot import Entry, Setting
from cairn_scheduler.tree import Tree


class Desk:
    """Every entry that it was told of, as the engine has it."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._setting: Setting | None = None
        self._entries: dict[str, Entry] = {}
        # Jobs of teams that the tree does not know.
        self.strangers: set[str] = set()
        # What the engine does not know of yet.
        self._changed: set[str] = set()

    def tell(self, entries: Iterable[Entry], gone: Iterable[str]) -> None:
        """Jobs as they are now, and those that are none of its any more."""
        for entry in entries:
            old = self._entries.get(entry.uid)
            self._entries[entry.uid] = entry
            if old is None or replace(old, reason=entry.reason) != entry:
                self._changed.add(entry.uid)
        for uid in gone:
            if self._entries.pop(uid, None) is not None:
                self._changed.add(uid)

    def decide(
        self,
        *,
        without: Collection[str],
        tree: Tree,
        places: Sequence[Place],
        holds: Sequence[world.Hold],
        claims: Sequence[str],
        now: datetime,
    ) -> Plan:
        """A plan for all but some of them."""
        setting = Setting(tree, tuple(places))
        if self._engine is None or self._setting is None or not self._setting.alike(setting):
            self._engine = Engine(snapshot.take((), tree=tree, places=places, holds=(), now=now))
            self._changed = set(self._entries)
            self.strangers.clear()
        self._setting = setting
        engine = self._engine
        fields = {
            "holds": tuple(holds),
            "claims": tuple(claims),
            "budgets": setting.budgets,
            "reservations": tree.windows,
        }
        engine.edit(**{name: new for name, new in fields.items() if new != getattr(engine.frame, name)})
        engine.apply(self._changes(setting, now))
        aside = [uid for uid in without if uid in self._entries]
        engine.apply(Gone(uid) for uid in aside)
        plan = engine.decide(snapshot.milliseconds(now))
        self._changed.update(aside)
        return plan

    def _changes(self, setting: Setting, now: datetime) -> list[world.JobRequest | world.Admitted | Gone]:
        made: list[world.JobRequest | world.Admitted | Gone] = []
        # In one order, whatever came first.
        for uid in sorted(self._changed):
            self.strangers.discard(uid)
            entry = self._entries.get(uid)
            if entry is None:
                made.append(Gone(uid))
                continue
            if not snapshot.seat(entry, setting.tree):
                self.strangers.add(uid)
            made.append(snapshot.read(entry, setting, now) or Gone(uid))
        self._changed.clear()
        return made
