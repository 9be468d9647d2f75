"""From an order to the task that SkyPilot gets: its resources as they are, and our runner as its command."""

from __future__ import annotations

import base64
import gzip
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from cairn_common import document
from cairn_scheduler import circuits, elsewhere, environment, fields, mounts
from cairn_scheduler.cluster import Order
from cairn_scheduler.model import Spec
from cairn_scheduler.sky.tool import Tool

# A belt: SkyPilot itself takes away a cluster whose job has ended, should nobody here do so. Minutes.
_IDLE_MINUTES = 10


@dataclass(frozen=True, slots=True)
class Surroundings:
    """How jobs reach the platform."""

    url: str
    bus_url: str


def trial_text(spec: Spec) -> str:
    """A task that asks for the same machines and does nothing, as JSON."""
    resources = _resources(_given(spec))
    return json.dumps({"num_nodes": spec.num_nodes, "resources": resources, "run": "true"})


def task_text(order: Order, *, tool: Tool, around: Surroundings) -> str:
    """The task, as JSON (which is YAML)."""
    given = _given(order.spec)
    task: dict[str, Any] = {
        **fields.passed(given, fields.TASK),
        "name": f"cairn-{order.run_uid[-8:]}",
        "num_nodes": order.spec.num_nodes,
        "resources": _resources(given, ways=order.circuits),
        "envs": dict(order.spec.envs),
        "secrets": {**order.secrets, "CAIRN_NODE_TOKEN": order.token},
        "run": script(order, tool=tool, around=around),
    }
    if found := mounts.buckets(given.get("file_mounts")):
        task["file_mounts"] = found
    return json.dumps(task)


def _given(spec: Spec) -> dict[str, Any]:
    given = document.read(spec.task) if spec.task.strip() else {}
    return given if isinstance(given, dict) else {}


def _resources(given: Mapping[str, Any], *, ways: Sequence[str] = ()) -> dict[str, Any]:
    """What SkyPilot is asked for; of several choices those that have one of these `ways` (none: all)."""
    resources = circuits.narrowed(dict(given.get("resources") or {}), ways)
    # The queue is ours.
    resources.pop("priority", None)
    if image := environment.image((given.get("cairn") or {}).get("env")):
        resources["image_id"] = image
    if not _cannot_stop_itself(resources):
        resources.setdefault("autostop", {"idle_minutes": _IDLE_MINUTES, "down": True})
    return resources


def _cannot_stop_itself(resources: Mapping[str, Any]) -> bool:
    """Plain Slurm knows no autostop; asking for it all the same costs each launch some seconds."""
    places = elsewhere.infra(resources).split(",")
    images = [choice.fields.get("image_id") for choice in elsewhere.choices(resources)]
    return all(place.partition("/")[0].lower() == "slurm" for place in places) and not any(images)


def script(order: Order, *, tool: Tool, around: Surroundings) -> str:
    """What each node runs: it installs the runner once, and becomes it."""
    values = {
        "ATTEMPT": order.attempt_uid,
        "TOOL": tool.digest,
        "NEEDS": " ".join(shlex.quote(need) for need in tool.needs),
    }
    head = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
    told = order.launch(url=around.url, bus_url=around.bus_url)
    launch = gzip.compress(json.dumps(told).encode(), mtime=0)
    text = (files("cairn_scheduler.sky") / "node.sh").read_text()
    return head + text.replace("@TOOL@", _lines(tool.archive)).replace("@LAUNCH@", _lines(launch))


def _lines(data: bytes) -> str:
    return base64.encodebytes(data).decode().strip()
