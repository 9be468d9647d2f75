"""The tracker's RPCs: who may call them, and what they check before the work is done elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

from cairn_common.auth import Access
from cairn_tracker.api import (
    artifacts,
    evaluations,
    keeping,
    lineage,
    logged_models,
    media,
    mlflow,
    mlflow_files,
    promotions,
    registry,
    runs,
    sharing,
    traces,
)

_APIS = (
    *(runs, artifacts, keeping, registry, logged_models, media, promotions, evaluations, lineage),
    *(mlflow, mlflow_files, traces, sharing),
)

#: What each RPC asks of its caller. One that is not here is refused.
ACCESS: Mapping[str, Access] = {path: asked for api in _APIS for path, asked in api.ACCESS.items()}
#: The services' full names, for health and reflection.
NAMES = tuple(api.NAME for api in _APIS)
