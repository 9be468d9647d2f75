"""What MLflow's own server has and this one has not: its clients are told so, and not that the path is
unknown, upon which they would try older paths."""

from __future__ import annotations

import re
from typing import Final

_FAMILIES: Final = (
    "webhooks", "datasets", "scorers", "gateway", "gateway-proxy", "issues", "label-schemas", "review-queues",
    "prompt-optimization", "jobs", "demo", "mcp-servers", "assistant", "secrets", "endpoints", "budgets",
    "guardrails", "workspaces", "users", "experiments/permissions", "registered-models/permissions",
    "unified-traces", "get-online-trace-details", "runs/create-promptlab-run",
    "traces/link-to-run", "traces/link-prompts", "traces/metrics", "traces/calculate-filter-correlation",
)  # fmt: skip
_PATH: Final = re.compile(
    rf"/(?:ajax-)?api/\d\.\d/mlflow/(?:{'|'.join(_FAMILIES)})(?:/.*)?"
    r"|/(?:ajax-)?api/\d\.\d/mlflow/traces(?:/[^/]+(?:/info)?)?|/graphql"
)


def is_known(path: str) -> bool:
    """Whether a path, without the prefix, is one of MLflow's own that nothing answers here."""
    return _PATH.fullmatch(path) is not None
