"""What a job was made from, where it is another one again. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class OriginKind(StrEnum):
    """How a job came from another one. A closed set."""

    RERUN = "RERUN"
    RESUME = "RESUME"


@dataclass(frozen=True, slots=True)
class Origin:
    """Another job of the same team; `checkpoint` names the version that a resumed one begins with."""

    kind: OriginKind
    job: str
    checkpoint: str = ""

    def launch(self) -> dict[str, str]:
        """As the runner is told."""
        return {"kind": self.kind.lower(), "run": self.job, "checkpoint": self.checkpoint}
