"""Refusals in MLflow's words."""

from __future__ import annotations

from cairn_common.errors import FailedPrecondition, NotFound, Reason


def unknown_run(uid: str) -> NotFound:
    """The error for a run that is not there, or not the caller's to see."""
    return NotFound(f"Run with id={uid[:100]} not found", reason=Reason.RUN_NOT_FOUND)


def deleted_run(uid: str) -> FailedPrecondition:
    """The error for a run that was deleted and is to be changed."""
    return FailedPrecondition(
        f"The run {uid} must be in the 'active' state. Current state is deleted.",
        reason=Reason.STATE_INVALID,
    )
