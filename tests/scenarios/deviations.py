"""Scenarios in which Cairn decides otherwise on purpose: the case's name, and why. As few as can be."""

from __future__ import annotations

DEVIATIONS: dict[str, str] = {}
