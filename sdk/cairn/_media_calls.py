"""The part of `cairn.Client` that is about histograms, tables and images."""

from __future__ import annotations

import hashlib
from base64 import b64decode
from collections.abc import Iterator

from cairn._blobs import Store, TransferError
from cairn._http import Api, Json, Query, segment
from cairn._team_calls import BASE, bare


class MediaCalls:
    """Calls of one bearer in one team; see `cairn.Client`."""

    api: Api
    team: str

    def media(
        self, run: str, key: str = "", *, latest: bool = False, start_step: int = 0, end_step: int = 0
    ) -> Iterator[Json]:
        """What a run logged beside numbers, by key and step; with `latest` of each key the last, and its
        `count` of steps. `items` have their bytes in `data` (base64) where they are small."""
        query: Query = {
            "key": key or None,
            "latest_only": "true" if latest else None,
            "start_step": start_step or None,
            "end_step": end_step or None,
        }
        return self.api.pages(f"{self._run_media(run)}", "media", query)

    def media_bytes(self, run: str, key: str, step: int, item: Json, index: int = 0) -> bytes:
        """The bytes of an item of `media`, the `index`-th of its step, checked against its digest.

        Raises `TransferError` where they are others, `ApiError` BLOB_NOT_FOUND while they are on their way.
        """
        digest, size = str(item["digest"]), int(item["size"])
        data = b64decode(item.get("data") or "")
        if not data:
            query: Query = {"key": key, "step": step, "index": index}
            found = self.api.get(self._run_media(run) + "/content", query)
            if url := found.get("url"):
                return bytes(Store().get(str(url), digest=digest, size=size))
            data = b64decode(found["item"]["data"])
        if hashlib.sha256(data).hexdigest() != digest:
            raise TransferError(f"the bytes of {key!r} at step {step} are not those that were logged")
        return data

    def _run_media(self, run: str) -> str:
        return f"{BASE}/teams/{segment(self.team)}/runs/{segment(bare(run))}/media"
