"""The object store's small contract, against a real S3 server."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cairn_common.errors import Unavailable
from cairn_common.ids import new_uid
from cairn_common.objects import ObjectStore
from tests.harness import servers


@pytest.fixture
def store(s3: servers.S3) -> ObjectStore:
    return ObjectStore(s3.endpoint, s3.access_key, s3.secret_key, s3.bucket, data_dir=s3.folder)


def key() -> str:
    return f"t/main/blobs/aa/{new_uid()}"


def send(url: str, method: str, data: bytes | None = None) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, data=data, method=method), timeout=10) as answer:
        return bytes(answer.read())


async def test_an_object_is_stored_measured_read_and_deleted(store: ObjectStore) -> None:
    name = key()
    assert await store.size(name) is None
    assert await store.get(name) is None
    await store.put(name, b"some bytes")
    await store.sync()
    assert await store.size(name) == 10
    assert await store.get(name) == b"some bytes"
    await store.delete(name)
    await store.delete(name)
    assert await store.size(name) is None


async def test_a_signed_url_is_good_for_its_method_and_its_key_alone(store: ObjectStore) -> None:
    name, other = key(), key()
    await asyncio.to_thread(send, store.presign_put(name), "PUT", b"by url")
    assert await asyncio.to_thread(send, store.presign_get(name, 60), "GET") == b"by url"
    for url, method, data in (
        (store.presign_get(name), "PUT", b"other"),
        (store.presign_put(name).replace(name, other), "PUT", b"other"),
        (store.presign_put(name), "DELETE", None),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            await asyncio.to_thread(send, url, method, data)
        refused.value.close()
        assert refused.value.code == 403
    assert await store.get(name) == b"by url"
    assert "X-Amz-Expires=900" in store.presign_get(name, 10**6)


async def test_a_url_names_the_address_that_the_callers_reach(s3: servers.S3) -> None:
    store = ObjectStore(
        s3.endpoint, s3.access_key, s3.secret_key, s3.bucket, public_endpoint="https://store.example.org"
    )
    assert store.presign_get("k").startswith("https://store.example.org/cairn/k?")
    await store.sync()


async def test_the_bucket_is_made_once(s3: servers.S3) -> None:
    store = ObjectStore(s3.endpoint, s3.access_key, s3.secret_key, f"b{new_uid()}")
    await asyncio.gather(*(store.ensure_bucket() for _ in range(3)))
    await store.put("k", b"x")
    await store.ensure_bucket()
    assert await store.get("k") == b"x"


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
