"""Names of the variables that a job's environment can have from people."""

from __future__ import annotations

import re

NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,127}")
# What the platform sets itself; but what SkyPilot logs in to a registry of images with, and what a program
# tells the SDK (it could set that itself).
TAKEN = re.compile(
    r"CAIRN_(?!PRIVATE_REFERENCES$).*|SKYPILOT_(?!DOCKER_(?:USERNAME|PASSWORD|SERVER)$).*|CUDA_VISIBLE_DEVICES"
)
FILES = "CAIRN_SOFT_FILES"
"""In a service's own environment: how many files it was started to open, before it asked for more."""
LONGEST = 64 * 1024
"""Of a value, in bytes."""
