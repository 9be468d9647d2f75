"""Settings that every service reads from the environment (prefix ``CAIRN_``)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from cairn_common.rate import Rates
from cairn_common.tls import Tls


class SettingsError(Exception):
    """The environment lacks a variable, or one has a value that cannot be used. One line, no value in it."""


class ServiceSettings(BaseSettings):
    """What all services need. Build it once, at the process's entry, with `load`.

    Secrets are `SecretStr`: they print as stars, and only `get_secret_value()` tells them.
    """

    model_config = SettingsConfigDict(env_prefix="CAIRN_", frozen=True, extra="ignore", env_ignore_empty=True)

    postgres_url: SecretStr = SecretStr("")
    nats_url: str = "nats://127.0.0.1:4222"
    # The service's nkey seed; empty: connect without one.
    nats_seed: SecretStr = SecretStr("")
    # The service's own opaque token for calls to its neighbours.
    service_token: SecretStr
    # host:port; port 0 takes a free one.
    grpc_bind: str = "127.0.0.1:0"
    # TLS between the services (tls.py): PEM files, the first two together; none: plain, for loopback.
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    # How often one token may ask, over HTTP and over gRPC, and how much at once; 0: as often as it likes.
    requests_per_second: float = Field(default=1000.0, ge=0)
    requests_burst: float = Field(default=2000.0, ge=1)
    scheduler_address: str = ""
    quota_address: str = ""
    tracker_address: str = ""
    gateway_address: str = ""
    # The gateway's HTTP URL, and the bus, as jobs and people reach them.
    public_url: str = ""
    public_nats_url: str = ""
    s3_endpoint: str = ""
    s3_access_key: str = ""
    s3_secret_key: SecretStr = SecretStr("")
    s3_bucket: str = "cairn"
    # The bucket's region; it matters to AWS alone.
    s3_region: str = "us-east-1"
    # Only embedded: the S3 server's folder, synced to disk before a manifest commits.
    s3_data_dir: Path | None = None
    # The service's own folder for local files.
    data_dir: Path | None = None
    log_level: str = "INFO"

    @property
    def tls(self) -> Tls | None:
        """How to speak to the neighbours; None: plainly. Raises `SettingsError` for half of it."""
        if self.tls_cert is None and self.tls_key is None and self.tls_ca is None:
            return None
        if self.tls_cert is None or self.tls_key is None:
            raise SettingsError("CAIRN_TLS_CERT and CAIRN_TLS_KEY are set together, CAIRN_TLS_CA beside them")
        return Tls(self.tls_cert, self.tls_key, self.tls_ca)

    def rates(self) -> Rates:
        """How often each token may ask; a count of its own."""
        return Rates(self.requests_per_second, self.requests_burst)

    @classmethod
    def load(cls) -> Self:
        """Reads the environment. Raises `SettingsError` naming the variables that are missing or wrong."""
        try:
            return cls()  # type: ignore[call-arg]
        except ValidationError as error:
            raise SettingsError(_explain(error, prefix=cls.model_config.get("env_prefix", ""))) from None


def required(settings: ServiceSettings, *names: str) -> None:
    """Checks fields that only some services need. Raises `SettingsError` naming the one that is not set."""
    for name in names:
        value = getattr(settings, name)
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if text in ("", None):
            raise SettingsError(f"CAIRN_{name.upper()} is not set")


def visible(environ: Mapping[str, str] | None = None) -> list[str]:
    """Names of the ``CAIRN_`` variables that are set, never their values: for a start-up log line."""
    return sorted(name for name in (os.environ if environ is None else environ) if name.startswith("CAIRN_"))


def _explain(error: ValidationError, *, prefix: str) -> str:
    missing = [_variable(item["loc"], prefix) for item in error.errors() if item["type"] == "missing"]
    wrong = [
        f"{_variable(item['loc'], prefix)}: {item['msg']}"
        for item in error.errors(include_input=False, include_url=False)
        if item["type"] != "missing"
    ]
    parts = [f"{', '.join(missing)} not set"] if missing else []
    return "; ".join(parts + wrong)


def _variable(location: tuple[int | str, ...], prefix: str) -> str:
    return prefix + "_".join(str(part) for part in location).upper()
