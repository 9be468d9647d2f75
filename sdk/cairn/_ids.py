"""Ids that are made here: lower-case ULIDs, legal in a URL, a NATS token, an S3 key, a Kubernetes label."""

from __future__ import annotations

import os
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
UID_LENGTH = 26


def new_uid() -> str:
    """A fresh uid; uids made later sort later, to the millisecond."""
    number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    digits = [_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5)]
    return "".join(digits)


def is_uid(text: str) -> bool:
    """Whether `text` could have come from `new_uid`."""
    return len(text) == UID_LENGTH and all(letter in _ALPHABET for letter in text)
