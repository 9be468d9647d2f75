"""The tracker's RPCs: who may call them, and what they check before the work is done elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

from cairn_common.auth import Access
from cairn_tracker.api import artifacts, keeping, logged_models, media, registry, runs

#: What each RPC asks of its caller. One that is not here is refused.
ACCESS: Mapping[str, Access] = {
    **runs.ACCESS,
    **artifacts.ACCESS,
    **keeping.ACCESS,
    **registry.ACCESS,
    **logged_models.ACCESS,
    **media.ACCESS,
}
#: The services' full names, for health and reflection.
NAMES = (runs.NAME, artifacts.NAME, keeping.NAME, registry.NAME, logged_models.NAME, media.NAME)
