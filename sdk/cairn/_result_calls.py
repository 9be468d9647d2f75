"""The part of `cairn.Client` that is about results: promotions, leaderboards, lineage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cairn._artifact_calls import ArtifactCalls
from cairn._http import Json, Query
from cairn._ids import new_uid
from cairn._publish import kind_name


class ResultCalls(ArtifactCalls):
    """Calls of one bearer in one team; see `cairn.Client`."""

    def versions_of_kind(self, kind: str, *, limit: int | None = None) -> Iterator[Json]:
        """Versions of all artifacts of a kind (model, dataset, evaluation ...), newest first."""
        query: Query = {"kind": kind_name(kind)}
        return self.api.pages(self._team("artifacts", "-", "versions"), "versions", query, limit=limit)

    def promote(self, artifact: str, ref: str | int, alias: str, *, note: str = "") -> Json:
        """Moves an alias to a version, or asks for it where a second person is to consent: the promotion's
        ``state`` is then PENDING."""
        body = {"alias": alias, "note": note, "request_id": new_uid()}
        return self.api.post(self._version(artifact, ref) + ":promote", body)

    def promotions(self, *, state: str = "", limit: int | None = None) -> Iterator[Json]:
        """Promotions (PENDING, APPROVED, REJECTED; else all), newest first."""
        query: Query = {"state": state or None}
        return self.api.pages(self._team("promotions"), "promotions", query, limit=limit)

    def approve(self, promotion: str, *, note: str = "") -> Json:
        """Consents to what somebody else asked for, as an admin: the alias moves."""
        return self.api.post(self._team("promotions", promotion) + ":approve", {"note": note})

    def reject(self, promotion: str, *, note: str = "") -> Json:
        """Ends what waits for consent."""
        return self.api.post(self._team("promotions", promotion) + ":reject", {"note": note})

    def promotion_rules(self) -> list[str]:
        """Aliases that move with a second person's consent alone."""
        return list(self.api.get(self._team("promotion-rules")).get("approved_aliases", []))

    def set_promotion_rules(self, aliases: Sequence[str]) -> list[str]:
        """Replaces them; for admins."""
        body = {"rules": {"approved_aliases": list(aliases)}}
        return list(self.api.post(self._team("promotion-rules"), body).get("approved_aliases", []))

    def board(self, dataset: str, ref: str | int = "", *, metric: str = "", tolerance: float = 0.0) -> Json:
        """How versions of models do on a dataset (``ref``: on one version of it), best first."""
        where = self._version(dataset, ref) if ref else self._team("artifacts", dataset)
        return self.api.get(where + "/board", {"metric": metric or None, "tolerance": str(tolerance)})

    def trace(self, name: str, *, direction: str = "", max_nodes: int = 0) -> Json:
        """What a version (``digits:v7``) or a run (its id) comes from and what came of it, over any number of
        steps: ``nodes``, and ``edges`` between places in them. ``direction``: UP, DOWN, else both."""
        query: Query = {"direction": direction or None, "max_nodes": max_nodes or None}
        artifact, colon, ref = name.partition(":")
        where = self._version(artifact, ref or "latest") if colon else self._team("runs", name)
        return self.api.get(where + "/trace", query)
