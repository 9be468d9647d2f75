"""Certificates as files, of authorities that are made for a test."""

from __future__ import annotations

from pathlib import Path

import trustme

from cairn_common.tls import Tls


def issued(folder: Path, authority: trustme.CA) -> Tls:
    """A certificate for this machine."""
    folder.mkdir(exist_ok=True)
    made = authority.issue_cert("127.0.0.1", "localhost", common_name="cairn")
    cert, key, ca = (folder / name for name in ("cert.pem", "key.pem", "ca.pem"))
    made.private_key_pem.write_to_path(key)
    key.chmod(0o600)
    for blob in made.cert_chain_pems:
        blob.write_to_path(cert, append=True)
    authority.cert_pem.write_to_path(ca)
    return Tls(cert, key, ca)
