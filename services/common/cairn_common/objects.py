"""The object store: the small part of S3 that works alike on every server."""

from __future__ import annotations

import asyncio
import base64
import ctypes
import functools
import hashlib
import hmac
import io
import os
import re
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit
from xml.sax.saxutils import escape, unescape

import minio
import structlog
import urllib3
from minio.commonconfig import ComposeSource, CopySource
from minio.error import S3Error
from pydantic import SecretStr

from cairn_common.errors import Reason, Unavailable
from cairn_common.tls import of_url

log = structlog.get_logger(__name__)

T = TypeVar("T")

_REGION = "us-east-1"
_CHECKSUM = "x-amz-checksum-sha256"
_LONGEST_URL = 900
_AT_ONCE = 8
_SMALL = 16 * 1024 * 1024
# Files of fewer bytes are brought to the disk together, by `sync`.
_LARGE = 1024 * 1024
# Files whose reading is remembered: of 16 MiB each they are 1.5 TB.
_MOST_READ = 100_000
_TURNS = 64
_PART = 16 * 1024 * 1024
# S3 copies no more than that at once.
_LARGEST_COPY = 5 * 1024**3
_UPLOAD_ID = re.compile(rb"<UploadId>([^<]{1,2000})</UploadId>")
_ERROR = re.compile(rb"<Error>.*?<Code>([A-Za-z]{1,80})</Code>", re.DOTALL)
_MISSING = ("NoSuchKey", "NoSuchBucket", "NoSuchObject", "ResourceNotFound")
_RETRIED = (
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
    "InternalError",
    "ServiceUnavailable",
    "RequestTimeout",
)

# The keys are not the store's, or may not do this, or the bucket lies in another region (400 to a HEAD).
_REFUSED = (
    "AccessDenied",
    "AuthorizationHeaderMalformed",
    "BadRequest",
    "InvalidAccessKeyId",
    "PermanentRedirect",
    "SignatureDoesNotMatch",
)


class UploadRefused(Exception):
    """The store does not know an upload in parts, or cannot make an object of what was sent."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class ObjectStore:
    """One bucket. Keys are content addresses that are written once; nothing else may be asked of S3 here.

    Every method raises `Unavailable` (STORE_UNAVAILABLE) while the store is away, or refuses its keys.
    """

    def __init__(
        self,
        endpoint: str,
        access_key: str,
        secret_key: SecretStr | str,
        bucket: str,
        *,
        region: str = _REGION,
        public_endpoint: str | None = None,
        data_dir: Path | None = None,
    ) -> None:
        """`endpoint` is the store's URL as the services reach it, `public_endpoint` as jobs and people do.

        The first may name certificates: see `tls.of_url`. `region` is the bucket's, where that matters (AWS).

        `data_dir` is set for the embedded store alone: the folder that `sync` brings to the disk.
        """
        secret = secret_key.get_secret_value() if isinstance(secret_key, SecretStr) else secret_key
        self._bucket = bucket
        self._data_dir = data_dir
        self._access_key, self._secret_key, self._region = access_key, secret, region
        endpoint, context = of_url(endpoint)
        self._http = _http(context)
        self._inside = _client(endpoint, access_key, secret, region, self._http)
        self._outside = (
            _client(public_endpoint, access_key, secret, region, self._http)
            if public_endpoint
            else self._inside
        )
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._read = _Read()

    def presign_put(
        self, key: str, expires: timedelta | float = _LONGEST_URL, *, sha256: str | None = None
    ) -> str:
        """A URL to PUT the object's bytes to, once or more, for at most 15 min (seconds or a timedelta).

        With `sha256` (hex) an external store takes no other bytes: the caller has to send the digest along,
        as `x-amz-checksum-sha256` in base64; the URL's X-Amz-SignedHeaders names it. The embedded one does
        not look at it; what lies there is read instead (`right`).
        """
        url = str(self._outside.presigned_put_object(self._bucket, key, expires=_within(expires)))
        if sha256 is None or self._data_dir is not None:
            return url
        return self._presign_checked(url, sha256, _within(expires))

    def presign_get(self, key: str, expires: timedelta | float = _LONGEST_URL) -> str:
        """A URL to GET the object's bytes from, for at most 15 min (seconds or a timedelta)."""
        return str(self._outside.presigned_get_object(self._bucket, key, expires=_within(expires)))

    async def begin(self, key: str) -> str:
        """Begins an upload of the object in parts; the upload's id."""
        answer = await self._run(lambda: self._ask_by_url("POST", key, {"uploads": ""}))
        found = _UPLOAD_ID.search(answer)
        if found is None:
            raise UploadRefused("UploadIdMissing")
        return unescape(found[1].decode())

    def presign_part(
        self, key: str, upload: str, number: int, expires: timedelta | float = _LONGEST_URL
    ) -> str:
        """A URL to PUT a part's bytes to, for at most 15 min; the first has the number 1. All but the last
        have 5 MiB or more."""
        query: dict[str, Any] = {"partNumber": str(number), "uploadId": upload}
        return str(
            self._outside.get_presigned_url(
                "PUT", self._bucket, key, expires=_within(expires), extra_query_params=query
            )
        )

    async def finish(self, key: str, upload: str, tags: Sequence[str]) -> None:
        """Makes the object of its parts, by the tags that their PUTs were answered with, in their order.

        Raises UploadRefused.
        """
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(tag)}</ETag></Part>"
            for number, tag in enumerate(tags, start=1)
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        await self._run(lambda: self._ask_by_url("POST", key, {"uploadId": upload}, body))

    async def abort(self, key: str, upload: str) -> None:
        """Ends an upload in parts, and forgets what was sent; no error where there is none."""

        def ask() -> None:
            try:
                self._ask_by_url("DELETE", key, {"uploadId": upload})
            except UploadRefused as error:
                if error.code not in ("NoSuchUpload", *_MISSING):
                    raise

        await self._run(ask)

    async def copy(self, key: str, to: str) -> None:
        """Puts the object's bytes under another key, without moving them through here where it can."""

        def ask() -> None:
            if self._data_dir is not None:
                path = self._data_dir / self._bucket / key
                with path.open("rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    self._inside.put_object(self._bucket, to, file, size, part_size=_PART)
                return
            known = self._inside.stat_object(self._bucket, key).size
            if known is not None and known > _LARGEST_COPY:
                self._inside.compose_object(self._bucket, to, [ComposeSource(self._bucket, key)])
            else:
                self._inside.copy_object(self._bucket, to, CopySource(self._bucket, key))

        await self._run(ask)

    async def size(self, key: str) -> int | None:
        """The object's size in bytes; None where there is none."""

        def ask() -> int | None:
            try:
                return self._inside.stat_object(self._bucket, key).size
            except S3Error as error:
                if error.code in _MISSING:
                    return None
                raise

        return await self._run(ask)

    async def right(self, wanted: Mapping[str, str]) -> dict[str, int]:
        """Of keys, with the SHA-256 (hex) that their bytes are to have: the sizes, by digest, of those that
        are there and have them, as far as that can be told without moving them.

        The embedded store's are read on the disk, and not again as long as the file is the same, unchanged;
        an external store looked at them while they came (`presign_put`): that they are there is enough.
        """
        if self._data_dir is None:
            sizes = await asyncio.gather(*(self.size(key) for key in wanted))
            return {
                digest: size for digest, size in zip(wanted.values(), sizes, strict=True) if size is not None
            }
        keys, folder = list(wanted), self._data_dir / self._bucket
        lanes = [{key: wanted[key] for key in keys[lane::_AT_ONCE]} for lane in range(_AT_ONCE)]
        found = await asyncio.gather(
            *(self._run(functools.partial(self._read.right, folder, lane)) for lane in lanes if lane)
        )
        return {digest: size for lane in found for digest, size in lane.items()}

    async def look_ahead(self, wanted: Mapping[str, str]) -> None:
        """Reads what `right` will soon be asked about, and brings it to the disk: then a commit waits for
        neither. Nothing to do for an external store."""
        if self._data_dir is None:
            return
        folder = self._data_dir / self._bucket
        await self._run(functools.partial(self._read.right, folder, wanted, to_disk=True))

    async def digest(self, key: str) -> str | None:
        """The SHA-256 (hex) of the object's bytes, read anew wherever they lie; None where there is none."""

        def ask() -> str | None:
            if self._data_dir is not None:
                try:
                    with (self._data_dir / self._bucket / key).open("rb") as file:
                        return hashlib.file_digest(file, "sha256").hexdigest()
                except FileNotFoundError:
                    return None
            try:
                response = self._inside.get_object(self._bucket, key)
            except S3Error as error:
                if error.code in _MISSING:
                    return None
                raise
            found = hashlib.sha256()
            try:
                for piece in response.stream(1 << 20):
                    found.update(piece)
            finally:
                response.close()
                response.release_conn()
            return found.hexdigest()

        return await self._run(ask)

    async def put(self, key: str, data: bytes) -> None:
        """Stores a small object (at most 16 MiB). Raises ValueError for a larger one."""
        if len(data) > _SMALL:
            raise ValueError(f"{len(data):,} bytes: large objects go by a signed URL")
        await self._run(lambda: self._inside.put_object(self._bucket, key, io.BytesIO(data), len(data)))

    async def get(self, key: str) -> bytes | None:
        """A small object's bytes; None where there is none."""

        def ask() -> bytes | None:
            try:
                response = self._inside.get_object(self._bucket, key)
            except S3Error as error:
                if error.code in _MISSING:
                    return None
                raise
            try:
                return bytes(response.read())
            finally:
                response.close()
                response.release_conn()

        return await self._run(ask)

    async def delete(self, key: str) -> None:
        """Deletes the object; no error where there is none."""

        def ask() -> None:
            try:
                self._inside.remove_object(self._bucket, key)
            except S3Error as error:
                if error.code not in _MISSING:
                    raise

        await self._run(ask)

    async def ensure_bucket(self) -> None:
        """Makes the bucket if it is not there."""

        def ask() -> None:
            if self._inside.bucket_exists(self._bucket):
                return
            try:
                self._inside.make_bucket(self._bucket)
            except S3Error as error:
                if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                    raise

        await self._run(ask)

    async def sync(self) -> None:
        """Brings what the embedded store has written to the disk; call it before a manifest commits.

        Nothing to do for an external store. Raises OSError where the disk refuses.
        """
        if self._data_dir is not None:
            await asyncio.to_thread(_syncfs, self._data_dir)

    def _presign_checked(self, url: str, sha256: str, expires: timedelta) -> str:
        """A signed PUT URL signed again, together with the digest: minio's client signs the host alone."""
        parts = urlsplit(url)
        now = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        scope = f"{now[:8]}/{self._region}/s3/aws4_request"
        headers = {"host": parts.netloc, _CHECKSUM: base64.b64encode(bytes.fromhex(sha256)).decode()}
        query = "&".join(
            f"{name}={quote(value, safe='')}"
            for name, value in (
                ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
                ("X-Amz-Credential", f"{self._access_key}/{scope}"),
                ("X-Amz-Date", now),
                ("X-Amz-Expires", str(int(expires.total_seconds()))),
                ("X-Amz-SignedHeaders", ";".join(headers)),
            )
        )
        lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
        request = f"PUT\n{parts.path}\n{query}\n{lines}\n{';'.join(headers)}\nUNSIGNED-PAYLOAD"
        text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signing = f"AWS4{self._secret_key}".encode()
        for piece in (*scope.split("/"), text):
            signing = hmac.digest(signing, piece.encode(), "sha256")
        return f"{parts.scheme}://{parts.netloc}{parts.path}?{query}&X-Amz-Signature={signing.hex()}"

    def _ask_by_url(self, method: str, key: str, query: dict[str, Any], body: bytes = b"") -> bytes:
        """What minio's client has no call of its own for. Raises UploadRefused."""
        url = self._inside.get_presigned_url(
            method, self._bucket, key, expires=_within(_LONGEST_URL), extra_query_params=query
        )
        answer = self._http.urlopen(method, url, body=body)
        refused = _ERROR.search(answer.data)
        if answer.status >= 300 or refused is not None:
            code = refused[1].decode() if refused else f"Status{answer.status}"
            raise _away(UploadRefused(code)) if code in _RETRIED else UploadRefused(code)
        return bytes(answer.data)

    async def _run(self, ask: Callable[[], T]) -> T:
        async with self._gate:
            try:
                return await asyncio.to_thread(ask)
            except (urllib3.exceptions.HTTPError, OSError, minio.error.ServerError) as error:
                raise _away(error) from error
            except S3Error as error:
                if error.code in _RETRIED:
                    raise _away(error) from error
                if error.code in _REFUSED:
                    raise Unavailable(
                        f"the object store refuses access to bucket {self._bucket}: {error.code}. "
                        "Look at CAIRN_S3_ACCESS_KEY, CAIRN_S3_SECRET_KEY, CAIRN_S3_BUCKET, CAIRN_S3_REGION",
                        reason=Reason.STORE_UNAVAILABLE,
                    ) from error
                raise


class _Read:
    """Files of the embedded store that were read and have the bytes of their digests: which file each key was
    then, and how, so that one that was written since is read anew. Threads share it."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, int, int, str]] = {}
        self._lock = threading.Lock()
        # A key has one of them: two threads do not read the same file at once.
        self._turns = [threading.Lock() for _ in range(_TURNS)]

    def right(self, folder: Path, wanted: Mapping[str, str], *, to_disk: bool = False) -> dict[str, int]:
        """As `ObjectStore.right`; `to_disk`: large ones are written out meanwhile."""
        found = {}
        for key, digest in wanted.items():
            try:
                with (folder / key).open("rb") as file:
                    status = os.fstat(file.fileno())
                    known = (status.st_ino, status.st_size, status.st_mtime_ns, digest)
                    with self._turns[hash(key) % _TURNS]:
                        if self._found.get(key) != known:
                            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                                continue
                            self._note(key, known)
                    if to_disk and status.st_size >= _LARGE:
                        os.fdatasync(file.fileno())
            except FileNotFoundError:
                continue
            found[digest] = status.st_size
        return found

    def _note(self, key: str, known: tuple[int, int, int, str]) -> None:
        with self._lock:
            while len(self._found) >= _MOST_READ:
                self._found.pop(next(iter(self._found)))
            self._found[key] = known


class _Http(urllib3.PoolManager):
    """Makes rclone's errors readable to minio's client: it sends its XML as text/xml."""

    def urlopen(self, method: str, url: str, redirect: bool = True, **kw: Any) -> Any:  # type: ignore[override]
        response = super().urlopen(method, url, redirect, **kw)
        if response.status >= 400 and response.headers.get("content-type", "").startswith("text/xml"):
            response.headers["content-type"] = "application/xml"
        return response


def _http(context: ssl.SSLContext | None) -> _Http:
    return _Http(
        ssl_context=context,
        maxsize=_AT_ONCE,
        timeout=urllib3.Timeout(connect=3.0, read=20.0),
        retries=urllib3.Retry(total=2, backoff_factor=0.1, status_forcelist=(500, 502, 503, 504)),
    )


def _client(endpoint: str, access_key: str, secret_key: str, region: str, http: _Http) -> minio.Minio:
    url = urllib3.util.parse_url(endpoint)
    if url.scheme not in ("http", "https") or not url.host or url.path not in (None, "", "/"):
        raise ValueError(f"an S3 endpoint is http(s)://host:port; got {endpoint!r}")
    return minio.Minio(
        f"{url.host}:{url.port}" if url.port else url.host,
        access_key=access_key,
        secret_key=secret_key,
        secure=url.scheme == "https",
        # Given, so that it is not asked for: rclone cannot answer that.
        region=region,
        http_client=http,
    )


def _within(expires: timedelta | float) -> timedelta:
    seconds = expires.total_seconds() if isinstance(expires, timedelta) else expires
    return timedelta(seconds=max(1, min(int(seconds), _LONGEST_URL)))


def _away(error: Exception) -> Unavailable:
    return Unavailable(
        "the object store does not answer", reason=Reason.STORE_UNAVAILABLE, cause=type(error).__name__
    )


def _syncfs(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if hasattr(library, "syncfs"):
            if library.syncfs(handle) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(folder))
        else:
            # Not Linux: everything, instead of this file system alone.
            os.sync()
    finally:
        os.close(handle)
