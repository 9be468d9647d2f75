"""For whom nobody is evicted in a decision: for jobs from which others would take what they got so.

A plan in which such a job evicts somebody is void, and made again with the job barred. Once all that would
have ousted it have places of their own they take nothing from it any more, and it may evict as others do.

Where many large jobs come at once to a full tree each plan has other small ones that evict and would be
ousted. Then evictions go by priority, over all nodes, and only then by shares.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

_HIGHEST, _LOWEST = 1 << 62, -(1 << 62)
# So many void plans, or so many ousted in one of them, are a storm.
_PATIENCE, _MANY = 3, 4
# Who is ousted by so many, one after the other, is barred whatever places they have.
_MOST = 4


class Bars:
    """By the uid of each job that is barred: by whom it would be ousted."""

    def __init__(self) -> None:
        self._by: dict[str, list[str]] = {}
        # Ousted in spite of its ousters' places, or by too many: for good.
        self._firm: set[str] = set()
        # The priority from which on jobs may evict at first; all, or none before those that fit.
        self.level = _LOWEST
        self._void = 0

    def learn(self, ousted: Mapping[str, str]) -> bool:
        """Takes in who would be ousted by whom in a plan; whether that plan is void."""
        new = False
        for uid, by in ousted.items():
            known = self._by.setdefault(uid, [])
            if by not in known and len(known) < _MOST:
                known.append(by)
                new = True
            elif uid not in self._firm:
                self._firm.add(uid)
                new = True
        self._void += new
        if self._void >= _PATIENCE or len(ousted) > _MANY:
            self.level = _HIGHEST
        return new

    def keep(self, uid: str, placed: Container[str]) -> bool:
        """Whether nobody may be evicted for it, where those that are `placed` have their places."""
        by = self._by.get(uid)
        return by is not None and (uid in self._firm or any(one not in placed for one in by))
