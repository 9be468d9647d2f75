"""Files to the store and back: broken off and gone on with, checked, cached, whatever they are called."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest
from minio import Minio

from cairn._blobs import Store, TransferError, UrlExpired
from cairn._digests import Digests
from cairn._download import download, download_folder
from cairn._http import Unreachable
from cairn._ids import new_uid
from cairn._saver import Saver
from cairn._stage import stage
from cairn._transfer import PART, Part, entries_of, sources, stamp_of
from cairn._upload import ChangedError, upload
from cairn.client import Client
from tests.harness.platform import Platform

T = TypeVar("T")
PARTS = 5
UPLOAD = """
import sys
from cairn.client import Client
Client().publish(sys.argv[1], sys.argv[2])
"""


@pytest.fixture(scope="module")
def platform(module_folder: Path) -> Iterator[Platform]:
    platform = Platform(module_folder)
    platform.up("--only", "tracker,gateway")
    yield platform
    platform.down()


@pytest.fixture(scope="module")
def client(platform: Platform) -> Client:
    return platform.client()


@pytest.fixture(scope="module")
def large(client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of several parts, which is version 1 of the artifact `large`."""
    path = tmp_path_factory.mktemp("large") / "weights.bin"
    path.write_bytes(os.urandom(PARTS * PART - 1_000))
    client.publish(path, "large")
    return path


class Counting(Store):
    """Counts what it fetches; breaks off before the fetch that is the `last` and one."""

    def __init__(self, last: int = 10**9) -> None:
        super().__init__(patience=1.0)
        self.fetched, self._last, self._lock = 0, last, threading.Lock()

    def get(self, url: str, *, digest: str, size: int) -> memoryview:
        with self._lock:
            if self.fetched >= self._last:
                raise Unreachable("http://store", ConnectionResetError())
            self.fetched += 1
        return super().get(url, digest=digest, size=size)


def fetch(client: Client, name: str, folder: Path, store: Store) -> None:
    download(client.api, client.team, entries_of(client.api, client.version(name)), folder, store=store)


def blobs(platform: Platform) -> dict[str, int]:
    """When each of the store's objects was written."""
    found = platform.data.glob("**/t/main/blobs/*/*")
    return {path.name: path.stat().st_mtime_ns for path in found if len(path.name) == 64}


def test_an_upload_that_was_killed_goes_on_and_is_one_version(
    platform: Platform, client: Client, tmp_path: Path
) -> None:
    data = os.urandom(8 * PART)
    (tmp_path / "a.bin").write_bytes(data)
    digests = {hashlib.sha256(data[at : at + PART]).hexdigest() for at in range(0, len(data), PART)}
    argv = [sys.executable, "-c", UPLOAD, str(tmp_path / "a.bin"), "killed"]
    env = {**platform.env, "CAIRN_URL": client.url, "CAIRN_TOKEN": client.token()}
    process = subprocess.Popen(argv, env=env)
    end = time.monotonic() + 60
    while not digests & blobs(platform).keys():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)
    process.kill()
    process.wait()
    before = {name: at for name, at in blobs(platform).items() if name in digests}
    assert "killed" not in {artifact["name"].rsplit("/", 1)[1] for artifact in client.artifacts()}
    subprocess.run(argv, env=env, check=True, timeout=120)
    after = blobs(platform)
    assert digests <= after.keys()
    # What was whole was not sent again; that of the killed process may still have arrived.
    again = [name for name, at in before.items() if after[name] != at]
    assert len(again) <= 1, (len(before), len(again))
    assert [version["version"] for version in client.versions("killed")] == [1]
    client.download("killed", 1, tmp_path / "back")
    assert (tmp_path / "back" / "a.bin").read_bytes() == data


def test_a_download_that_broke_off_fetches_only_the_rest(client: Client, large: Path, tmp_path: Path) -> None:
    with pytest.raises(Unreachable):
        fetch(client, "large", tmp_path, Counting(last=3))
    assert not (tmp_path / "weights.bin").exists()
    rest = Counting()
    fetch(client, "large", tmp_path, rest)
    assert rest.fetched == PARTS - 3
    assert (tmp_path / "weights.bin").read_bytes() == large.read_bytes()
    assert os.listdir(tmp_path) == ["weights.bin"]
    whole = Counting()
    fetch(client, "large", tmp_path, whole)
    assert whole.fetched == 0


def test_a_folder_appears_whole_and_goes_on_where_it_broke_off(
    client: Client, large: Path, tmp_path: Path
) -> None:
    entries, folder = entries_of(client.api, client.version("large")), tmp_path / "v1"
    with pytest.raises(Unreachable):
        download_folder(client.api, client.team, entries, folder, store=Counting(last=2))
    assert not folder.exists()
    rest = Counting()
    download_folder(client.api, client.team, entries, folder, store=rest)
    assert (rest.fetched, os.listdir(tmp_path)) == (PARTS - 2, ["v1"])
    assert (folder / "weights.bin").read_bytes() == large.read_bytes()


def test_two_processes_that_fetch_into_one_folder_do_not_meet(
    client: Client, large: Path, tmp_path: Path
) -> None:
    threads = [threading.Thread(target=fetch, args=(client, "large", tmp_path, Counting())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "weights.bin").read_bytes() == large.read_bytes()
    assert os.listdir(tmp_path) == ["weights.bin"]


def test_a_full_disk_says_so_and_with_room_it_goes_on(client: Client, large: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40M,mode=755", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("file systems cannot be mounted here")
    try:
        first = Counting()
        with pytest.raises(TransferError, match=r"the disk of .* is full: .* goes on where it stopped"):
            fetch(client, "large", disk, first)
        subprocess.run(["mount", "-o", "remount,size=200M", str(disk)], check=True)
        rest = Counting()
        fetch(client, "large", disk, rest)
        assert rest.fetched < PARTS
        assert (disk / "weights.bin").read_bytes() == large.read_bytes()
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_url_that_has_expired_is_asked_for_anew_both_ways(
    platform: Platform, client: Client, tmp_path: Path
) -> None:
    keys = json.loads((platform.data / "secrets.json").read_text())["s3"]

    class Late(Counting):
        """The first URL of each part comes when its quarter of an hour is over."""

        def __init__(self) -> None:
            super().__init__()
            self.seen: set[str] = set()
            self.refused = 0

        def put(self, url: str, data: bytes) -> None:
            self._tried(lambda: super(Late, self).put(self._late("PUT", url), data))

        def get(self, url: str, *, digest: str, size: int) -> memoryview:
            return self._tried(
                lambda: super(Late, self).get(self._late("GET", url), digest=digest, size=size)
            )

        def _late(self, method: str, url: str) -> str:
            parts = urlsplit(url)
            with self._lock:
                if parts.path in self.seen:
                    return url
                self.seen.add(parts.path)
            store = Minio(
                parts.netloc, access_key=keys["access"], secret_key=keys["secret"],
                secure=False, region="us-east-1",
            )  # fmt: skip
            bucket, _, key = parts.path[1:].partition("/")
            begun = datetime.now(UTC) - timedelta(minutes=16)
            return store.get_presigned_url(
                method, bucket, key, expires=timedelta(minutes=15), request_date=begun
            )

        def _tried(self, ask: Callable[[], T]) -> T:
            try:
                return ask()
            except UrlExpired:
                self.refused += 1
                raise

    (tmp_path / "a").write_bytes(os.urandom(PART + 1_000))
    store = Late()
    entries = upload(client.api, client.team, sources(tmp_path / "a"), store=store)
    assert store.refused == 2
    client.commit_version(
        "late", {"kind": "ARTIFACT_KIND_FILE", "entries": [each.json() for each in entries]}
    )
    store = Late()
    fetch(client, "late", tmp_path / "back", store)
    assert store.refused == 2
    assert (tmp_path / "back" / "a").read_bytes() == (tmp_path / "a").read_bytes()


def test_what_a_run_made_is_the_same_on_another_machine(
    platform: Platform, client: Client, tmp_path: Path
) -> None:
    """Another home, another folder, no cache: nothing but an address and a token."""
    uid, made = new_uid(), tmp_path / "made"
    client.api.post(f"/api/v1/teams/{client.team}/runs", {"run_id": uid})
    for kind in ("model", "dataset", "file"):
        (made / kind / "sub").mkdir(parents=True)
        (made / kind / "sub" / "large").write_bytes(os.urandom(PART + 10))
        (made / kind / "empty").write_bytes(b"")
        client.publish(made / kind, f"away-{kind}", kind=kind, run=uid)
    fetched = """
import sys
from cairn.client import Client
client, run = Client(), sys.argv[1]
for artifact in client.artifacts():
    name = artifact["name"].rsplit("/", 1)[1]
    for version in client.versions(name):
        if version.get("run", "").endswith(run):
            client.download(name, version["version"], version["kind"].rsplit("_", 1)[1].lower())
"""
    there = tmp_path / "elsewhere"
    there.mkdir()
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(there / "home"),
        "CAIRN_URL": client.url,
        "CAIRN_TOKEN": client.token(),
    }
    (there / "work").mkdir()
    argv = [sys.executable, "-c", fetched, uid]
    subprocess.run(argv, env=env, cwd=there / "work", check=True, timeout=60)

    def digests(folder: Path) -> dict[str, str]:
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")
            if path.is_file()
        }

    assert digests(there / "work") == digests(made)
    assert len(digests(made)) == 6


def test_bytes_that_are_not_those_of_their_digest_are_never_written(
    platform: Platform, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(os.urandom(1_000))
    version = client.publish(tmp_path / "a", "spoiled")
    (blob,) = platform.data.glob(f"**/t/main/blobs/*/{version['entries'][0]['digest']}")
    blob.write_bytes(os.urandom(1_000))
    with pytest.raises(TransferError, match="they were not used"):
        client.download("spoiled", 1, tmp_path / "back")
    assert os.listdir(tmp_path / "back") == []


def test_a_part_that_came_wrong_is_fetched_again_and_one_that_lies_wrong_is_named(
    platform: Platform, client: Client, tmp_path: Path
) -> None:
    class Noisy(Counting):
        """One of the parts comes wrong."""

        spoiled = False

        def get(self, url: str, *, digest: str, size: int) -> memoryview:
            with self._lock:
                first, self.spoiled = not self.spoiled, True
            return super().get(url, digest="0" * 64 if first else digest, size=size)

    file = tmp_path / "a.bin"
    file.write_bytes(os.urandom(2 * PART))
    version = client.publish(file, "noisy")
    noisy = Noisy()
    fetch(client, "noisy", tmp_path / "back", noisy)
    assert (tmp_path / "back" / "a.bin").read_bytes() == file.read_bytes()
    assert noisy.fetched == 3
    lost = version["entries"][0]["parts"][1]["digest"]
    (blob,) = platform.data.glob(f"**/t/main/blobs/*/{lost}")
    blob.write_bytes(os.urandom(PART))
    with pytest.raises(TransferError, match=f"not those of blob {lost[:12]}"):
        client.download("noisy", 1, tmp_path / "again")
    assert not (tmp_path / "again" / "a.bin").exists()


def test_what_was_fetched_once_is_in_the_cache_as_long_as_it_is_right_and_there_is_room(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("one", "two"):
        (source / name).write_bytes(os.urandom(1_000))
    client.publish(source, "cached")
    monkeypatch.setenv("CAIRN_CACHE_BYTES", "2500")
    monkeypatch.setenv("CAIRN_CACHE_DIR", str(tmp_path / "cache"))

    def fetched(folder: str) -> int:
        store = Counting()
        fetch(client, "cached", tmp_path / folder, store)
        assert (tmp_path / folder / "one").read_bytes() == (source / "one").read_bytes()
        return store.fetched

    assert [fetched("a"), fetched("b")] == [2, 0]
    (tmp_path / "b" / "one").write_bytes(b"changed")
    assert fetched("c") == 0, "copies are apart"
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    next(path for path in kept if path.read_bytes() == (source / "one").read_bytes()).write_bytes(
        bytes(1_000)
    )
    assert fetched("d") == 1, "what is not right any more is fetched again"
    monkeypatch.setenv("CAIRN_CACHE_LINKS", "1")
    assert fetched("e") == 0
    assert (tmp_path / "e" / "one").stat().st_nlink == 2
    assert not os.access(tmp_path / "e" / "one", os.W_OK) or os.geteuid() == 0
    monkeypatch.setenv("CAIRN_CACHE_BYTES", "1500")
    assert fetched("f") == 0
    assert len([path for path in (tmp_path / "cache").rglob("*") if path.is_file()]) == 1


def test_names_of_any_language_and_files_without_bytes_come_back(client: Client, tmp_path: Path) -> None:
    names = [
        "naïve/é.bin", "naïve/e\u0301.bin", "日本語/重み", "emoji 🚀.txt", "שלום", "a b'c\"d", "50%25?x=#1",
        ".hidden", "C", "con", "trailing.", " lead", "sub/sub/sub/empty", "x" * 200,
    ]  # fmt: skip
    source = tmp_path / "source"
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"" if name.endswith("empty") else name.encode())
    client.publish(source, "names")
    client.download("names", 1, tmp_path / "back")
    found = {
        path.relative_to(tmp_path / "back").as_posix(): path.read_bytes()
        for path in (tmp_path / "back").rglob("*")
        if path.is_file()
    }
    assert found == {name: b"" if name.endswith("empty") else name.encode() for name in names}


def test_a_tree_of_more_files_than_a_message_takes_is_one_version(client: Client, tmp_path: Path) -> None:
    for folder in range(13):
        (tmp_path / f"{folder}").mkdir()
        for file in range(1_000):
            (tmp_path / f"{folder}" / f"{file}").write_bytes(b"%d" % (file % 5))
    version = client.publish(tmp_path, f"tree-{new_uid()}")
    assert (version["entry_count"], version.get("entries", [])) == (13_000, [])
    entries = entries_of(client.api, version)
    assert len({entry.path for entry in entries}) == 13_000
    assert {len(entry.parts) for entry in entries} == {1}


def test_a_file_that_stayed_as_it_was_is_not_read_again_and_one_that_did_not_is(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAIRN_DIGESTS", str(tmp_path / "digests.sqlite3"))
    file, name = tmp_path / "a.bin", f"still-{new_uid()}"
    file.write_bytes(os.urandom(PART + 10))
    written = file.stat().st_mtime_ns - 10**10
    os.utime(file, ns=(written, written))
    first = client.publish(file, name)
    with file.open("r+b") as changed:
        changed.write(b"seen by nobody")
    os.utime(file, ns=(written, written))
    assert client.publish(file, name)["digest"] == first["digest"], "it looks the same, so it is not read"
    os.utime(file)
    assert client.publish(file, name)["digest"] != first["digest"]
    client.download(name, 3, tmp_path / "back")
    assert (tmp_path / "back" / "a.bin").read_bytes() == file.read_bytes()


def test_what_was_noted_of_a_file_is_checked_before_it_is_sent(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAIRN_DIGESTS", str(tmp_path / "digests.sqlite3"))
    file, name = tmp_path / "a.bin", f"noted-{new_uid()}"
    file.write_bytes(os.urandom(3 * PART))
    stamp = stamp_of(file.stat())
    parts = [Part(hashlib.sha256(os.urandom(8)).hexdigest(), PART) for _ in range(3)]
    digests = Digests(tmp_path / "digests.sqlite3")
    digests.note(stamp, stamp[3] + 10**10, parts[0].digest, tuple(parts))
    digests.close()
    version = client.publish(file, name)
    made = [hashlib.sha256(file.read_bytes()[at : at + PART]) for at in range(0, 3 * PART, PART)]
    assert [part["digest"] for part in version["entries"][0]["parts"]] == [each.hexdigest() for each in made]
    whole = hashlib.sha256(b"".join(each.digest() for each in made))
    assert version["entries"][0]["digest"] == whole.hexdigest()
    client.download(name, 1, tmp_path / "back")
    assert (tmp_path / "back" / "a.bin").read_bytes() == file.read_bytes()


def test_a_linked_checkpoint_that_was_written_over_is_refused_and_never_saved_half(
    client: Client, tmp_path: Path
) -> None:
    uid = new_uid()
    client.api.post(f"/api/v1/teams/{client.team}/runs", {"run_id": uid})
    saver = Saver(
        api=client.api, team=client.team, run_uid=uid, folder=tmp_path / "stage", artifact=f"checkpoint-{uid}"
    )
    file = tmp_path / "state.bin"

    def saved(step: int, *, own: bool) -> None:
        file.write_bytes(b"%d " % step * 1_000)
        staged = stage(file, saver.folder, step=step, metrics={}, link=True)
        if own:
            staged.own()
        file.write_bytes(b"the next step")
        saver.save(staged)
        assert saver.wait(60.0)

    saved(1, own=True)
    with pytest.raises(ChangedError, match="was written after it was given"):
        saved(2, own=False)
    saved(3, own=True)
    assert [each["step"] for each in client.checkpoints(uid)] == [3, 1]
    client.download(f"checkpoint-{uid}", "latest", tmp_path / "back")
    assert (tmp_path / "back" / "state.bin").read_bytes() == b"3 " * 1_000
    assert list((tmp_path / "stage").iterdir()) == []


@pytest.mark.chaos
@pytest.mark.parametrize("part", ["s3", "tracker", "gateway"])
def test_a_version_is_there_once_and_whole_though_a_part_of_the_platform_is_killed(
    platform: Platform, client: Client, tmp_path: Path, part: str
) -> None:
    (tmp_path / "a.bin").write_bytes(os.urandom(6 * PART))
    name, before = f"chaos-{part}", len(blobs(platform))
    made: list[dict[str, Any]] = []
    work = threading.Thread(target=lambda: made.append(platform.client().publish(tmp_path / "a.bin", name)))
    work.start()
    for count in (1, 3, 5):
        while work.is_alive() and len(blobs(platform)) < before + count:
            time.sleep(0.002)
        if work.is_alive():
            platform.kill(part)
    work.join(timeout=150)
    assert [version["version"] for version in client.versions(name)] == [1] == [int(made[0]["version"])]
    client.download(name, 1, tmp_path / "back")
    assert (tmp_path / "back" / "a.bin").read_bytes() == (tmp_path / "a.bin").read_bytes()
    assert client.verify_version(name, 1) == []
