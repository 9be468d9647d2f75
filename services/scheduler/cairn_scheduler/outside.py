"""What the parts of the loop work with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_scheduler.cluster import Cluster
from cairn_scheduler.lease import Lead
from cairn_scheduler.quota import Quota
from cairn_scheduler.recent import Recent
from cairn_scheduler.vault import Vault


@dataclass(frozen=True, slots=True)
class Outside:
    """The neighbours of whoever decides."""

    db: Database
    # Every write of the loop goes through it.
    lead: Lead
    quota: Quota
    clusters: Mapping[str, Cluster]
    clock: Clock
    vault: Vault
    recent: Recent
