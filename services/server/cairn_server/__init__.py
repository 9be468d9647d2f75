"""The platform as processes: what cairn up starts, supervises and stops."""

from __future__ import annotations

SERVICES = ("scheduler", "quota", "tracker", "gateway")
