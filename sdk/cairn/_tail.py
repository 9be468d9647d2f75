"""How far one writer's segments have been shipped."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from cairn._segments import SegmentReader, segment_path, segments

if TYPE_CHECKING:
    from cairn._batch import Message

_log = logging.getLogger("cairn")


class Tail:
    """How far one writer's segments have been shipped; kept in its `shipped` file.

    Before messages go out, the offsets where they end are saved too: a shipper that comes after a crash cuts
    at the same places, so a message that was sent already is sent again as it was, and counts once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.segment, self.offset, self._cuts = 1, 0, set[int]()
        try:
            saved = json.loads((folder / "shipped").read_text())
            self.segment, self.offset = int(saved["segment"]), int(saved["offset"])
            self._cuts = set(map(int, saved["cuts"]))
        except (OSError, ValueError, KeyError, TypeError):
            first = segments(folder)[:1]
            self.segment = first[0] if first else 1
        self._reader = SegmentReader(segment_path(folder, self.segment), self.offset)

    def next(self) -> list[Message]:
        """Messages for what has been written since; moves on to the next segment at the end of one."""
        from cairn._batch import messages

        while True:
            # Asked first: the last record of a segment is written before the next segment is made.
            closed = segment_path(self.folder, self.segment + 1).exists()
            frames = self._reader.read_rows() if self._reader.has_more() else []
            found = list(messages(frames, shapes=self._reader.shapes, start=self.offset, cuts=self._cuts))
            if found:
                self._cuts = {message.end for message in found}
                self.save()
                return found
            if not closed:
                return []
            if not frames:
                self._next_segment()

    def taken(self, message: Message) -> None:
        self.offset = message.end

    def save(self) -> None:
        state = {"segment": self.segment, "offset": self.offset, "cuts": sorted(self._cuts)}
        temporary = self.folder / "shipped.new"
        try:
            temporary.write_text(json.dumps(state))
            os.replace(temporary, self.folder / "shipped")
        except OSError as error:  # a full disk: after a crash more is sent twice, and counted once
            _log.info("cairn: cannot save how far %s was shipped: %s", self.folder, error)

    def _next_segment(self) -> None:
        done = self._reader.path
        self.segment, self.offset, self._cuts = self.segment + 1, 0, set()
        self._reader = SegmentReader(segment_path(self.folder, self.segment))
        self.save()
        done.unlink(missing_ok=True)
