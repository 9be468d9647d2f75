"""What the scheduler does when the quota service tells something."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from cairn.quota.v1 import events_pb2
from cairn_common.bus import Message

log = structlog.get_logger(__name__)

SUBJECTS = [
    "cairn.v1.quota.reservation.ended.>",
    "cairn.v1.quota.team.updated.>",
    "cairn.v1.quota.token.revoked.>",
]


class QuotaFacts:
    """Room was made, or a limit changed: the loop looks again. A token was revoked: it is forgotten.

    Both may happen twice without harm, so nothing is kept of what was heard.
    """

    def __init__(self, *, wake: Callable[[], None], forget: Callable[[str], None]) -> None:
        self._wake = wake
        self._forget = forget

    async def __call__(self, messages: Sequence[Message]) -> None:
        """Raises google.protobuf's DecodeError for what is no QuotaEvent."""
        for message in messages:
            event = events_pb2.QuotaEvent.FromString(message.data)
            if event.HasField("token_revoked"):
                self._forget(event.token_revoked.token.uid)
            else:
                self._wake()
