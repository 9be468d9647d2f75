"""The part of S3 that Cairn uses, on every server that is at hand.

Always on the embedded server, and on SeaweedFS where its wheel is installed; also on those that
`CAIRN_TEST_S3` names, with commas between them: `http://access:secret@host:port/bucket`, with `?region=...`
where the store has regions.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from cairn_common.ids import new_uid
from cairn_common.objects import ObjectStore, UploadRefused
from cairn_server.backends.program import SetupError
from tests.harness import servers
from tests.harness.seaweed import start_seaweed

OTHERS = [text.strip() for text in os.environ.get("CAIRN_TEST_S3", "").split(",") if text.strip()]


def _named(text: str) -> ObjectStore:
    url = urlsplit(text)
    host = f"{url.scheme}://{url.hostname}" + (f":{url.port}" if url.port else "")
    names = unquote(url.username or ""), unquote(url.password or ""), url.path.strip("/")
    return ObjectStore(host, *names, region=parse_qs(url.query).get("region", ["us-east-1"])[0])


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3]:
    try:
        server = start_seaweed(tmp_path_factory.mktemp("seaweed"))
    except SetupError as error:
        pytest.skip(str(error))
    yield server
    # It would take its leave for half a minute.
    server.kill()


HERE = ["embedded", "embedded, from outside", "seaweed"]


@pytest.fixture(params=[*HERE, *OTHERS], ids=lambda text: text.rsplit("@")[-1])
async def store(request: pytest.FixtureRequest) -> ObjectStore:
    if request.param not in HERE:
        return _named(request.param)
    s3: Any = request.getfixturevalue("seaweed" if request.param == "seaweed" else "s3")
    inside = s3.folder if request.param == "embedded" else None
    made = ObjectStore(s3.endpoint, s3.access_key, s3.secret_key, s3.bucket, data_dir=inside)
    await made.ensure_bucket()
    return made


def key() -> str:
    return f"t/main/blobs/aa/{new_uid()}"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def send(url: str, method: str, data: bytes | None = None, headers: Mapping[str, str] | None = None) -> bytes:
    request = urllib.request.Request(url, data=data, method=method, headers=dict(headers or {}))
    with urllib.request.urlopen(request, timeout=30) as answer:
        return bytes(answer.read())


async def test_an_object_is_stored_measured_read_and_deleted(store: ObjectStore) -> None:
    name = key()
    assert await store.size(name) is None
    assert await store.get(name) is None
    assert await store.digest(name) is None
    await store.put(name, b"some bytes")
    await store.sync()
    assert await store.size(name) == 10
    assert await store.get(name) == b"some bytes"
    assert await store.digest(name) == sha256(b"some bytes")
    await store.delete(name)
    await store.delete(name)
    assert await store.size(name) is None


async def test_a_part_of_the_largest_size_goes_up_and_down_by_signed_urls(store: ObjectStore) -> None:
    name, data = key(), os.urandom(16 * 2**20)
    await asyncio.to_thread(send, store.presign_put(name), "PUT", data)
    assert await store.size(name) == len(data)
    assert await asyncio.to_thread(send, store.presign_get(name), "GET") == data
    assert await store.digest(name) == sha256(data)
    await store.delete(name)


async def test_a_range_is_read_alone(store: ObjectStore) -> None:
    name = key()
    await store.put(name, b"0123456789")
    got = await asyncio.to_thread(send, store.presign_get(name), "GET", None, {"Range": "bytes=3-5"})
    assert got == b"345"


async def test_an_object_that_is_written_again_has_the_new_bytes_and_never_a_mix(store: ObjectStore) -> None:
    name, old, new = key(), b"a" * 100_000, b"b" * 90_000
    for data in (old, new):
        await asyncio.to_thread(send, store.presign_put(name), "PUT", data)
    assert await store.get(name) == new
    await asyncio.gather(*(store.put(name, data) for data in (old, new) * 4))
    assert await store.get(name) in (old, new)


async def test_what_is_right_is_told_from_what_is_missing(store: ObjectStore) -> None:
    there, missing = key(), key()
    await store.put(there, b"right")
    wanted = {there: sha256(b"right"), missing: sha256(b"missing")}
    assert await store.right(wanted) == {sha256(b"right"): 5}


async def test_bytes_that_are_not_those_of_their_digest_never_count(
    store: ObjectStore, request: pytest.FixtureRequest
) -> None:
    if "outside" in request.node.name:
        pytest.skip("rclone looks at no checksum: what is kept on it is read by Cairn, on the disk")
    name, data = key(), b"what was promised"
    url, promised = store.presign_put(name, sha256=sha256(data)), {name: sha256(data)}
    headers = {"x-amz-checksum-sha256": base64.b64encode(hashlib.sha256(data).digest()).decode()}
    # An URL for no other bytes says so; the embedded store's bytes are read instead.
    strict = "x-amz-checksum-sha256" in url
    for wrong in (b"what was received", b"w"):
        if strict:
            with pytest.raises(urllib.error.HTTPError) as refused:
                await asyncio.to_thread(send, url, "PUT", wrong, headers)
            refused.value.close()
            assert refused.value.code == 400
        else:
            await asyncio.to_thread(send, url, "PUT", wrong)
        assert await store.right(promised) == {}
    await asyncio.to_thread(send, url, "PUT", data, headers if strict else None)
    assert await store.right(promised) == {sha256(data): len(data)}


async def test_a_signed_url_is_good_for_its_method_and_its_key_alone(store: ObjectStore) -> None:
    name, other = key(), key()
    await asyncio.to_thread(send, store.presign_put(name), "PUT", b"by url")
    assert await asyncio.to_thread(send, store.presign_get(name, 60), "GET") == b"by url"
    late = store.presign_get(name).replace("X-Amz-Date=2", "X-Amz-Date=1")
    for url, method, data in (
        (store.presign_get(name), "PUT", b"other"),
        (store.presign_put(name).replace(name, other), "PUT", b"other"),
        (store.presign_put(name), "DELETE", None),
        (late, "GET", None),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            await asyncio.to_thread(send, url, method, data)
        refused.value.close()
        assert refused.value.code in (400, 403)
    assert await store.get(name) == b"by url"
    assert "X-Amz-Expires=900" in store.presign_get(name, 10**6)


async def test_parts_become_an_object_that_is_copied_by_the_store(store: ObjectStore) -> None:
    name, to = key(), key()
    parts = [os.urandom(5 * 2**20), os.urandom(5 * 2**20), b"the rest"]
    upload = await store.begin(name)

    def put(number: int) -> str:
        url = store.presign_part(name, upload, number)
        request = urllib.request.Request(url, data=parts[number - 1], method="PUT")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.headers["ETag"])

    tags = await asyncio.gather(*(asyncio.to_thread(put, number) for number in (1, 2, 3)))
    assert await store.size(name) is None
    await store.finish(name, upload, tags)
    # Some stores (AWS, SeaweedFS) say again that it is done, others do not know it any more.
    with suppress(UploadRefused):
        await store.finish(name, upload, tags)
    assert await store.size(name) == sum(map(len, parts))
    await store.copy(name, to)
    await store.delete(name)
    assert await store.digest(to) == sha256(b"".join(parts))
    await store.delete(to)


async def test_parts_that_the_store_has_not_make_no_object(store: ObjectStore) -> None:
    name = key()
    upload = await store.begin(name)
    await asyncio.to_thread(send, store.presign_part(name, upload, 1), "PUT", b"some bytes")
    with pytest.raises(UploadRefused):
        await store.finish(name, upload, ['"0123456789abcdef0123456789abcdef"'])
    # Some stores end the upload with that, others go on with it.
    await store.abort(name, upload)
    assert await store.size(name) is None


async def test_parts_that_are_given_up_are_gone(store: ObjectStore) -> None:
    name = key()
    upload = await store.begin(name)
    url = store.presign_part(name, upload, 1)
    await asyncio.to_thread(send, url, "PUT", b"some bytes")
    for _ in range(2):
        await store.abort(name, upload)
    with pytest.raises(urllib.error.HTTPError):
        await asyncio.to_thread(send, url, "PUT", b"some bytes")
    assert await store.size(name) is None
