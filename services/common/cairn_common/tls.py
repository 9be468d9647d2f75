"""TLS between the services: each shows a certificate and asks its callers for theirs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: this service's certificate (with its chain) and key, and the authority whose certificates
    are good. With `ca` None, callers are not asked for one, and servers are held to the machine's own."""

    cert: Path
    key: Path
    ca: Path | None = None

    def server(self) -> grpc.ServerCredentials:
        """For a port. Raises OSError for a file that cannot be read."""
        authority = None if self.ca is None else self.ca.read_bytes()
        pair = (self.key.read_bytes(), self.cert.read_bytes())
        return grpc.ssl_server_credentials(
            [pair], root_certificates=authority, require_client_auth=authority is not None
        )

    def client(self) -> grpc.ChannelCredentials:
        """For a channel. Raises OSError for a file that cannot be read."""
        authority = None if self.ca is None else self.ca.read_bytes()
        return grpc.ssl_channel_credentials(authority, self.key.read_bytes(), self.cert.read_bytes())
