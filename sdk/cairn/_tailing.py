"""Curves that are followed: read once, then only what is new comes, and what was changed is read anew."""

from __future__ import annotations

from cairn._http import ApiError, Json
from cairn.client import Client

_COLUMNS = ("steps", "times", "last", "min", "max", "counts")


class Tail:
    """The metrics of one run in at most about twice `buckets` buckets each."""

    def __init__(self, client: Client, run: str, *, buckets: int) -> None:
        self._client = client
        self._run = run
        self._buckets = buckets
        self._cursor = ""
        self._series: dict[str, Json] = {}

    def read(self) -> list[Json]:
        """The series as they are now, as `Client.series` gives them. Raises `ApiError`, `Unreachable`."""
        if self._cursor:
            try:
                self._more()
                return list(self._series.values())
            except ApiError as error:
                if error.status != 400:
                    raise
        self._open()
        return list(self._series.values())

    def _open(self) -> None:
        self._cursor = cursor = ""
        try:
            # Before the rest: what comes in between is then in both.
            cursor = str(self._client.tail([self._run]).get("cursor", ""))
        except ApiError as error:
            if error.status not in (400, 404, 405):  # too many series to follow, or a server without this
                raise
        self._keep(self._client.series([self._run], max_buckets=self._buckets))
        self._cursor = cursor

    def _more(self) -> None:
        answer = self._client.tail([self._run], cursor=self._cursor)
        anew = [str(each["key"]) for each in answer.get("changed", [])]
        for fresh in answer.get("series", []):
            key = str(fresh["key"])
            joined = self._series[key] = joined_with(self._series.get(key), fresh)
            if len(joined["steps"]) > 2 * self._buckets:
                anew.append(key)
        for start in range(0, len(anew), 50):
            self._keep(self._client.series([self._run], anew[start : start + 50], max_buckets=self._buckets))
        self._cursor = str(answer["cursor"])

    def _keep(self, series: list[Json]) -> None:
        self._series.update((str(each["key"]), each) for each in series)


def joined_with(known: Json | None, fresh: Json) -> Json:
    """A series and exact points behind it; steps that it has already are left out."""
    more = {**fresh, "min": fresh["last"], "max": fresh["last"], "counts": [1] * len(fresh["last"])}
    if known is None:
        return more
    end = int(known["steps"][-1]) if known["steps"] else -1
    start = next((place for place, step in enumerate(fresh["steps"]) if int(step) > end), None)
    if start is None:
        return known
    return {**known, **{name: [*known[name], *more[name][start:]] for name in _COLUMNS}}
