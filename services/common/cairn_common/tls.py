"""TLS between the services, each of which shows a certificate and asks its callers for theirs; and with the
servers behind them, by the files that their URLs name."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

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


_PARAMETERS = ("sslrootcert", "sslcert", "sslkey")


def of_url(text: str) -> tuple[str, ssl.SSLContext | None]:
    """A URL without the files that it names, and how to speak TLS by them; None where it names none.

    They are named as in PostgreSQL's URLs: ``?sslrootcert=ca.pem&sslcert=...&sslkey=...``. Without
    sslrootcert the machine's authorities count.

    Raises ValueError for other parameters and OSError for a file that cannot be used.
    """
    plain, _, query = text.partition("?")
    if not query:
        return plain, None
    given = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(set(given) - set(_PARAMETERS)):
        raise ValueError(f"{plain}: {', '.join(unknown)} is not one of {', '.join(_PARAMETERS)}")
    if not plain.startswith(("tls://", "https://")):
        raise ValueError(f"{plain}: certificates are for tls:// and https:// alone")
    if ("sslcert" in given) != ("sslkey" in given):
        raise ValueError(f"{plain}: sslcert and sslkey are named together")
    context = ssl.create_default_context(cafile=given.get("sslrootcert"))
    if "sslcert" in given:
        context.load_cert_chain(given["sslcert"], given["sslkey"])
    return plain, context
