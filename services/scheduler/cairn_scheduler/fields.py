"""Every field of a SkyPilot task, and what becomes of it: here, and where SkyPilot runs the job. Pure.

Nothing that is accepted is dropped: a field is honoured by the platform itself, handed to SkyPilot as it is,
or is a hint that this machine has no use for (a disk's size, a spot market, labels of a cloud). The rest is
refused with its path and with what to do instead. The fields are those of SkyPilot 0.14.1, as its
sky/utils/schemas.py has them.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from cairn_common.errors import InvalidArgument, Reason


class Use(Enum):
    """What becomes of a field that is accepted."""

    # The platform does it.
    HONOURED = "honoured"
    # SkyPilot gets it as it is written.
    PASSED = "passed"
    # A hint that this machine has no use for, and without which the job is the same.
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class Field:
    """`here`: on this machine, `there`: with SkyPilot; a text refuses the field, and says what to do.

    `kinds`: what the value may be, `told` in words; HONOURED fields are read where they are used.
    """

    here: Use | str
    there: Use | str
    kinds: tuple[type, ...] = ()
    told: str = ""


def _never(told: str) -> Field:
    return Field(told, told)


HONOURED, PASSED, IGNORED = Use.HONOURED, Use.PASSED, Use.IGNORED
_TEXT = ((str,), "a text")
_FLAG = ((bool,), "true or false")
_FIELDS = ((dict,), "a mapping of fields")
_LIST = ((list,), "a list")
_SIZE = ((int, str), "a size such as 100 or 100GB")
_NUMBER = ((int, float), "a number")
_OWN = "is SkyPilot's own and not to be written into a task; leave it out"
_HERE = "jobs on this machine are plain processes"

TASK: Mapping[str, Field] = {
    **dict.fromkeys(
        (
            "name", "workdir", "num_nodes", "envs", "secrets", "setup", "run", "resources", "file_mounts",
            "cairn",
        ),
        Field(HONOURED, HONOURED),
    ),
    "config": Field(IGNORED, PASSED, *_FIELDS),
    "volumes": Field(
        f"{_HERE}: there is no volume to mount; read from where the data is, or run it elsewhere (`--infra`)",
        PASSED, *_FIELDS,
    ),
    "inputs": Field(IGNORED, PASSED, *_FIELDS),
    "outputs": Field(IGNORED, PASSED, *_FIELDS),
    "event_callback": _never("SkyPilot calls it for its managed jobs alone; watch the job (`cairn watch`)"),
    "service": _never("is for SkyServe, and Cairn runs jobs; `cairn serve-model` serves a model as one"),
    "pool": _never("is for SkyPilot's pools of workers; Cairn's queue needs none: leave it out"),
    "managed_secrets": _never(
        "names secrets that SkyPilot keeps; give `secrets: {NAME: null}`, and `cairn run --secret NAME`"
    ),
    "api_server_access": _never("jobs do not get at SkyPilot's server; leave it out"),
    **dict.fromkeys(("file_mounts_mapping", "volume_mounts", "_metadata"), _never(_OWN)),
}  # fmt: skip

RESOURCES: Mapping[str, Field] = {
    **dict.fromkeys(
        ("cpus", "memory", "accelerators", "infra", "any_of", "ordered", "priority"),
        Field(HONOURED, HONOURED),
    ),
    "cloud": Field(HONOURED, HONOURED, *_TEXT),
    "region": Field(IGNORED, PASSED, *_TEXT),
    "zone": Field(IGNORED, PASSED, *_TEXT),
    "use_spot": Field(IGNORED, PASSED, *_FLAG),
    "disk_size": Field(IGNORED, PASSED, *_SIZE),
    "ephemeral_storage": Field(IGNORED, PASSED, *_SIZE),
    "disk_tier": Field(IGNORED, PASSED, *_TEXT),
    "network_tier": Field(IGNORED, PASSED, *_TEXT),
    "local_disk": Field(IGNORED, PASSED, *_TEXT),
    "max_hourly_cost": Field(IGNORED, PASSED, *_NUMBER),
    # What listens on this machine can be reached on it, and through `cairn forward`.
    "ports": Field(IGNORED, PASSED, (int, str, list), "a port, a range such as 8000-8010, or a list of such"),
    "labels": Field(IGNORED, PASSED, *_FIELDS),
    "autostop": Field(IGNORED, PASSED, (bool, int, str, dict), "minutes, false, or a mapping of fields"),
    "image_id": Field(
        f"{_HERE}, no containers; name the packages in `cairn.env`, or run it elsewhere (`--infra`)",
        PASSED, (str, dict), "an image such as docker:ubuntu:22.04, or a mapping from region to image",
    ),
    "volumes": Field(f"{_HERE}: there is no disk to attach; leave it out", PASSED, *_LIST),
    "accelerator_args": Field("is for TPUs, which this machine does not have", PASSED, *_FIELDS),
    "instance_type": Field(
        IGNORED,
        "quotas cannot count a machine's name; give `cpus` and `accelerators`, and SkyPilot finds one",
        *_TEXT,
    ),
    "job_recovery": _never(
        "Cairn itself tries again; give `cairn.max_retries`, or `cairn: {retries: {user_error: 3}}`"
    ),
    "spot_recovery": _never("Cairn itself tries again; give `cairn: {retries: {spot: 20}}`"),
    "priority_class": _never("give `cairn.priority`, or `resources.priority`"),
    **dict.fromkeys(
        (
            "_no_missing_accel_warnings", "_is_image_managed", "_requires_fuse", "_cluster_config_overrides",
        ),
        _never(_OWN),
    ),
    "_docker_login_config": _never(
        "give the secrets SKYPILOT_DOCKER_USERNAME, SKYPILOT_DOCKER_PASSWORD and SKYPILOT_DOCKER_SERVER"
    ),
}  # fmt: skip

# Of `config`, what is not the task's to choose, or cannot be left out.
_CONFIG_HERE = {"hooks": f"{_HERE}: SkyPilot runs no hooks here; use `setup`, and a trap in `run`"}
_CONFIG_THERE = {"active_workspace": "the workspace follows from the team; leave it out"}


def check(fields: Mapping[str, object], at: str, table: Mapping[str, Field], *, infra: str) -> None:
    """Raises InvalidArgument TASK_INVALID with the path of what is unknown, refused, or of a wrong kind.

    `infra`: where the job runs, in SkyPilot's words; empty: on this machine.
    """
    for name, value in fields.items():
        path = f"{at}.{name}" if at else name
        field = table.get(name)
        if field is None:
            raise unknown(path, name, [known for known in table if not known.startswith("_")])
        use = field.there if infra else field.here
        if value is None:
            continue
        if isinstance(use, str):
            raise _invalid(path, use if use is _OWN else f"cannot be used: {use}")
        odd = isinstance(value, bool) and bool not in field.kinds
        if field.kinds and (odd or not isinstance(value, field.kinds)):
            raise _invalid(path, f"is {field.told}, not {kind(value)}")
    config = fields.get("config") if not at else None
    if isinstance(config, dict):
        for name, remedy in (_CONFIG_THERE if infra else _CONFIG_HERE | _CONFIG_THERE).items():
            if config.get(name) is not None:
                raise _invalid(f"config.{name}", remedy)


def passed(fields: Mapping[str, object], table: Mapping[str, Field]) -> dict[str, object]:
    """What of it goes to SkyPilot as it is written."""
    return {
        name: value
        for name, value in fields.items()
        if value is not None and name in table and table[name].there is PASSED
    }


def unknown(path: str, name: str, known: list[str]) -> InvalidArgument:
    """The error for a field that nobody knows, with the one that may have been meant."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    meant = f"; did you mean `{close[0]}`?" if close else f"; known are {', '.join(sorted(known))}"
    return _invalid(path, f"there is no such field{meant}", suggestion=close[0] if close else "")


def kind(value: object) -> str:
    """What a value is, for people."""
    kinds = (
        (dict, "a mapping"),
        (list, "a list"),
        (bool, "yes or no"),
        (int | float, "a number"),
        (str, "a text"),
    )
    return next((told for of, told in kinds if isinstance(value, of)), "nothing")


def _invalid(path: str, message: str, **facts: str) -> InvalidArgument:
    return InvalidArgument(f"{path}: {message}", reason=Reason.TASK_INVALID, path=path, **facts)


def show(value: object) -> str:
    """Short, and bounded also where aliases nest: a plain `repr` would not be."""
    try:
        return _shorten.repr(value)
    except ValueError:  # an integer of thousands of digits
        return "this number"


_shorten = reprlib.Repr()
_shorten.maxstring = _shorten.maxother = 80
_shorten.maxlevel = 3
