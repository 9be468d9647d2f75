"""What a spent budget does to jobs that ran already: they are HELD until it has something again. Pure.

Of new jobs the engine says `BudgetExhausted`, and they wait in the queue. `deny_new` leaves alone what ran.
"""

from __future__ import annotations

from cairn_scheduler import snapshot
from cairn_scheduler.engine.gates import unused
from cairn_scheduler.engine.world import Budget, Overrun
from cairn_scheduler.model import State
from cairn_scheduler.snapshot import Entry
from cairn_scheduler.tree import Tree


def stops(entry: Entry, tree: Tree) -> Budget | None:
    """The spent budget that lets no further attempt of a job begin. What is held ahead by one that keeps its
    place is its own."""
    node = snapshot.seat(entry, tree)
    path, user = set(tree.path(node)), entry.creator.removeprefix("users/")
    for budget in tree.budgets:
        mine = budget.node in path and budget.user in ("", user)
        left = unused(budget) if entry.state.placed else budget.left
        if mine and left <= 0 and budget.overrun is not Overrun.DENY_NEW:
            return budget
    return None


def told(budget: Budget) -> str:
    """Which one, for people."""
    return f"budget {budget.id} of {budget.node}"


def holds(entry: Entry, tree: Tree) -> Budget | None:
    """The budget for which a job is to be HELD now, though it keeps its place and is about to go on."""
    return stops(entry, tree) if entry.state is State.RECOVERING else None
