"""Who is next: jobs that are alike wait in a line, lines compete inside their node, nodes by their share.

Inside a node: priority, then requeued ones, then the user with less (decayed) use, then (where the node says
so) who asks for the fewest GPUs, then age. Between nodes,
from the root down: who stays within its quota, then the smaller share after the admission.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping

from cairn_scheduler.engine.quota import NOTHING, Seat, Share
from cairn_scheduler.engine.state import State
from cairn_scheduler.engine.watch import Watch, Watches
from cairn_scheduler.engine.world import ANY, Amounts, Code, JobRequest, Option, Reason, Within
from cairn_scheduler.engine.world import Order as WhoFirst

Shape = tuple[object, ...]
# A failure with this stamp is one that has to be looked at in every pass.
ALWAYS = -1
UNSEEN = Reason(Code.NOT_EVALUATED)
Standing = tuple[tuple[bool, Share], ...]
LineOrder = tuple[int, bool, int, int, int, str]


class Line:
    """Jobs of one node that are alike in all that a decision looks at, the oldest first.

    `reason`: why its first one did not start when it was last tried, at the stamps `freed` and `moved`.
    """

    __slots__ = (
        "_standing",
        "due",
        "first",
        "fixed",
        "freed",
        "jobs",
        "key",
        "minds",
        "moved",
        "options",
        "pools",
        "priority",
        "reason",
        "requests",
        "requeued",
        "seat",
        "size",
        "told",
        "twin",
        "until",
        "untold",
        "user",
        "watch",
    )  # fmt: skip

    def __init__(
        self, key: Shape, seat: Seat, request: JobRequest, watch: Watch, twin: int | None = None
    ) -> None:
        self.key, self.seat, self.watch = key, seat, watch
        # The same number for lines that find the same victims, and where no budget or circuit has a say fail
        # alike: users and retries make no odds to them. None: it has no such lines.
        self.twin = twin
        # What its last failure hangs on: all that could matter, or less.
        self.minds = watch
        self.priority, self.requeued, self.user = request.priority, request.requeued, request.user
        # What decides before age: GPUs in thousandths, where the smallest goes first.
        self.size = _gpus(request) if seat.node.order is WhoFirst.SMALLEST else 0
        self.jobs: list[tuple[int, str]] = []
        self.requests: dict[str, JobRequest] = {}
        self.reason: Reason | None = None
        self.freed = self.moved = ALWAYS
        self.until = 0
        # What all its jobs were told, but for these.
        self.told: Reason | None = None
        self.untold: set[str] = set()
        # What can never change: why none of them can ever start, the options that could hold them, and the
        # pools where they could have a reservation.
        self.fixed: Reason | None = None
        self.options: list[int] | None = None
        self.pools: frozenset[str] | None = None
        # From when on its first job starves; None: to be looked at.
        self.due: int | None = None
        # How many of `jobs` are dealt with in this pass.
        self.first = 0
        self._standing: tuple[int, Standing] | None = None

    def put(self, request: JobRequest) -> None:
        """Adds a job."""
        insort(self.jobs, (request.create_time, request.uid))
        self.requests[request.uid] = request
        self.untold.add(request.uid)
        self.due = None

    def drop(self, uid: str) -> None:
        """Takes a job out."""
        request = self.requests.pop(uid)
        self.untold.discard(uid)
        self.due = None
        at = bisect_left(self.jobs, (request.create_time, uid))
        del self.jobs[at]

    def tell(self) -> tuple[Reason, Iterable[str]]:
        """Why its jobs wait, and those of them who were not told so yet."""
        reason = self.reason or UNSEEN
        whom: Iterable[str] = self.untold
        if self.told is None or not (self.told is reason or self.told.says(reason)):
            self.told, whom = reason, self.requests
        self.untold = set()
        return self.told, whom

    def head(self) -> JobRequest | None:
        """The next one in this pass."""
        if self.first >= len(self.jobs):
            return None
        return self.requests[self.jobs[self.first][1]]

    def alike(self, option: int) -> Shape:
        """The same for lines that find the same victims with this option."""
        return (self.jobs[self.first] if self.twin is None else self.twin, option)

    def unchanged(self, now: int) -> bool:
        """Whether nothing has changed since it failed that could let its first job start."""
        if self.freed == ALWAYS or (self.until and self.until <= now):
            return False
        return self.freed == self.minds.freed() and self.moved == self.minds.moved()

    def standing(self, state: State, *, fair: bool) -> Standing:
        """From the root's child down: whether each would borrow, and its share; the best of its options."""
        version = sum(seat.version for seat in self.seat.path() if seat.parent is not None)
        if self._standing is None or self._standing[0] != version:
            self._standing = (version, self._stand(state, version, fair=fair))
        return self._standing[1]

    def _stand(self, state: State, version: int, *, fair: bool) -> Standing:
        options = self.requests[self.jobs[0][1]].options
        if self.seat.parent is None or not options:
            return ()
        numbers = self.options or range(len(options))
        found = []
        for usage in (options[number].usage for number in numbers):
            known = self.seat.standings.get(usage)
            if known is None or known[0] != version:
                known = (version, self._stand_with(state, usage, fair=fair))
                self.seat.standings[usage] = known
            found.append(known[1])
        return min(found)

    def _stand_with(self, state: State, usage: Amounts, *, fair: bool) -> Standing:
        with state.tentative():
            state.tree.take(self.seat, usage)
            keys = [key for key, amount in usage if amount > 0]
            order = [
                (seat.exceeds(keys), seat.share() if fair else NOTHING)
                for seat in self.seat.path()
                if seat.parent is not None
            ]
            state.tree.give(self.seat, usage)
        return tuple(order[::-1])


class Queue:
    """All pending jobs that could start, in lines by node. `use`: decayed use by (node, user)."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.watches = Watches(state)
        self.lines: dict[str, dict[Shape, Line]] = {name: {} for name in state.tree.seats}
        self.line_of: dict[str, Line] = {}
        self._alike: dict[tuple[Option, ...], int] = {}
        self._twins: dict[Shape, int] = {}
        self._numbers: dict[int, tuple[tuple[Option, ...], int]] = {}

    def put(self, request: JobRequest) -> Line:
        """Adds a job to its line."""
        key = (
            request.priority,
            request.requeued,
            request.user,
            self._number(request.options),
            request.ranks,
            request.per_rank,
            request.priority_class,
            request.max_runtime,
            request.attempted,
        )
        lines = self.lines[request.node]
        line = lines.get(key)
        if line is None:
            seat = self._state.tree.seats[request.node]
            twin: int | None = None
            if seat.node.within is not Within.LOWER_OR_NEWER:
                priority, _, _, *rest, _ = key
                twin = self._twins.setdefault((seat.id, priority, *rest), len(self._twins))
            line = lines[key] = Line(key, seat, request, self.watches.of(seat, request.options), twin)
        line.put(request)
        self.line_of[request.uid] = line
        return line

    def drop(self, uid: str) -> None:
        """Takes a job out of its line."""
        line = self.line_of.pop(uid)
        line.drop(uid)
        if not line.jobs:
            del self.lines[line.seat.id][line.key]

    def doubt(self) -> None:
        """What all lines found out may not hold any more, though nothing was freed."""
        for lines in self.lines.values():
            for line in lines.values():
                line.freed = ALWAYS

    def saved(self, seat: Seat) -> bool:
        """A job of this node saved a checkpoint: who waits until it may be evicted looks again. True: any."""
        borrows = any(one.over for one in seat.path())
        waiting = [
            line
            for lines in (self.lines.values() if borrows else [self.lines[seat.id]])
            for line in lines.values()
            if line.until
        ]
        for line in waiting:
            line.freed = ALWAYS
        return bool(waiting)

    def _number(self, options: tuple[Option, ...]) -> int:
        """The same number for equal options; by identity first, for most jobs share theirs."""
        known = self._numbers.get(id(options))
        if known is not None:
            return known[1]
        number = self._alike.setdefault(options, len(self._alike))
        # Kept alive with it, so that the identity stays its own.
        self._numbers[id(options)] = (options, number)
        return number


def _gpus(request: JobRequest) -> int:
    """What the smallest of its options asks for."""
    asked = [
        sum(amount for (flavor, resource), amount in option.usage if resource == "gpu" and flavor != ANY)
        for option in request.options
    ]
    return min(asked, default=0)


def order_in_node(line: Line, use: Mapping[tuple[str, str], int]) -> LineOrder:
    """The place of a line's next job among those of its node: the smaller goes first."""
    time, uid = line.jobs[line.first]
    used = use.get((line.seat.id, line.user), 0)
    return (-line.priority, not line.requeued, used, line.size, time, uid)
