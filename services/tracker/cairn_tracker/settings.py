"""What the tracker reads from the environment."""

from __future__ import annotations

from pydantic import Field, SecretStr

from cairn_common.settings import ServiceSettings


class TrackerSettings(ServiceSettings):
    """The common settings, the store of points and lines, and the pace of ingest."""

    # `chdb:///absolute/folder` for the engine inside this process, or `http(s)://user:password@host:8123/db`.
    clickhouse_url: SecretStr
    # Connections for queries, beside the one that writes.
    clickhouse_readers: int = 2
    # Seconds between two inserts at most while events arrive. Each insert costs a few milliseconds of CPU
    # however small it is; what waits meanwhile goes with the next one.
    ingest_interval: float = 0.5
    # The store's URL as jobs and people reach it, for presigned URLs; empty: the same.
    s3_public_endpoint: str = ""
    # Seconds for which bytes stay that nobody keeps: of deleted versions, and of uploads that were given up.
    # An upload takes no longer than this from its first part to its commit, or it sends parts again.
    collection_grace: float = Field(default=86_400.0, ge=0)
    # Seconds between two looks for such bytes.
    collection_interval: float = Field(default=300.0, gt=0)
    # Bytes a second that are read again in search of rot (0: none are), and seconds after which each is due.
    scrub_rate: float = Field(default=8.0 * 2**20, ge=0)
    scrub_period: float = Field(default=7 * 86_400.0, ge=0)
    # Seconds between two looks for points and lines that a rule lets go. Each time the parts of the tables
    # that hold some of them are written anew, however little it is.
    expiry_interval: float = Field(default=6 * 3600.0, gt=0)
