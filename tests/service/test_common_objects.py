"""What of the object store is not the servers' contract (tests/contract): addresses, the bucket, outages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cairn_common.errors import Unavailable
from cairn_common.ids import new_uid
from cairn_common.objects import ObjectStore
from tests.harness import servers


async def test_a_url_names_the_address_that_the_callers_reach(s3: servers.S3) -> None:
    store = ObjectStore(
        s3.endpoint, s3.access_key, s3.secret_key, s3.bucket, public_endpoint="https://store.example.org"
    )
    assert store.presign_get("k").startswith("https://store.example.org/cairn/k?")
    await store.sync()


def test_a_url_is_signed_for_the_buckets_region(s3: servers.S3) -> None:
    store = ObjectStore("https://s3.eu-north-1.amazonaws.com", "key", "secret", "mine", region="eu-north-1")
    digest = "ab" * 32
    for url in (store.presign_get("k"), store.presign_put("k"), store.presign_put("k", sha256=digest)):
        assert url.startswith("https://mine.s3.")
        assert "%2Feu-north-1%2Fs3%2Faws4_request" in url


async def test_the_bucket_is_made_once(s3: servers.S3) -> None:
    store = ObjectStore(s3.endpoint, s3.access_key, s3.secret_key, f"b{new_uid()}")
    await asyncio.gather(*(store.ensure_bucket() for _ in range(3)))
    await store.put("k", b"x")
    await store.ensure_bucket()
    assert await store.get("k") == b"x"


async def test_keys_that_the_store_refuses_are_named_with_their_settings(s3: servers.S3) -> None:
    store = ObjectStore(s3.endpoint, s3.access_key, "another secret", s3.bucket)
    for asked in (store.ensure_bucket(), store.put("k", b"x"), store.size("k")):
        with pytest.raises(Unavailable, match=r"refuses access to bucket cairn: .*CAIRN_S3_SECRET_KEY"):
            await asked


async def test_a_store_that_is_away_is_unavailable(tmp_path: Path) -> None:
    server = await asyncio.to_thread(servers.start_s3, tmp_path)
    try:
        store = ObjectStore(server.endpoint, server.access_key, server.secret_key, server.bucket)
        await store.put("a/k", b"x")
        await asyncio.to_thread(server.kill)
        for ask in _calls(store):
            with pytest.raises(Unavailable):
                await ask()
        await asyncio.to_thread(server.start)
        assert await store.get("a/k") == b"x"
    finally:
        server.stop()


def _calls(store: ObjectStore) -> list[Callable[[], Awaitable[object]]]:
    return [
        lambda: store.size("a/k"),
        lambda: store.get("a/k"),
        lambda: store.put("a/k", b"x"),
        lambda: store.delete("a/k"),
        store.ensure_bucket,
    ]
