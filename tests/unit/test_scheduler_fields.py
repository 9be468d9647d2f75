"""Every field of a task in SkyPilot 0.14.1: honoured, handed on, harmless here, or refused with its path."""

from __future__ import annotations

import json

import pytest
import yaml

from cairn_common.errors import InvalidArgument
from cairn_scheduler import fields
from cairn_scheduler.cluster import Order
from cairn_scheduler.fields import HONOURED, IGNORED, PASSED
from cairn_scheduler.model import Code
from cairn_scheduler.sky.order import Surroundings, task_text
from cairn_scheduler.sky.tool import Tool
from cairn_scheduler.task import parse

REFUSED = "refused"
# Field, a value of it, what becomes of it on this machine, and with SkyPilot.
TASK = [
    ("name", "digits", HONOURED, HONOURED),
    ("workdir", ".", HONOURED, HONOURED),
    ("num_nodes", 2, HONOURED, HONOURED),
    ("resources", {"cpus": 1}, HONOURED, HONOURED),
    ("file_mounts", {"data": "./data"}, HONOURED, HONOURED),
    ("setup", "pip list", HONOURED, HONOURED),
    ("run", "python train.py", HONOURED, HONOURED),
    ("envs", {"LR": "0.1"}, HONOURED, HONOURED),
    ("secrets", {"HF_TOKEN": None}, HONOURED, HONOURED),
    # Ours.
    ("cairn", {"priority": 1}, HONOURED, HONOURED),
    ("config", {"slurm": {"sbatch_options": {"time": "1:00:00"}}}, IGNORED, PASSED),
    ("inputs", {"s3://data": 100}, IGNORED, PASSED),
    ("outputs", {"s3://data": 100}, IGNORED, PASSED),
    ("volumes", {"/data": "volume"}, REFUSED, PASSED),
    ("service", {"replicas": 2}, REFUSED, REFUSED),
    ("pool", {"workers": 2}, REFUSED, REFUSED),
    ("event_callback", "echo", REFUSED, REFUSED),
    ("managed_secrets", ["HF_TOKEN"], REFUSED, REFUSED),
    ("api_server_access", True, REFUSED, REFUSED),
    ("file_mounts_mapping", {"a": "b"}, REFUSED, REFUSED),
    ("volume_mounts", [{}], REFUSED, REFUSED),
    ("_metadata", {}, REFUSED, REFUSED),
]
RESOURCES = [
    ("cpus", "4+", HONOURED, HONOURED),
    ("memory", "8x", HONOURED, HONOURED),
    ("accelerators", {"A100": 2}, HONOURED, HONOURED),
    ("any_of", [{"cpus": 4}], HONOURED, HONOURED),
    ("ordered", [{"cpus": 4}], HONOURED, HONOURED),
    ("priority", 500, HONOURED, HONOURED),
    ("region", "us-east-1", IGNORED, PASSED),
    ("zone", "us-east-1a", IGNORED, PASSED),
    ("use_spot", True, IGNORED, PASSED),
    ("disk_size", "100GB", IGNORED, PASSED),
    ("ephemeral_storage", 100, IGNORED, PASSED),
    ("disk_tier", "best", IGNORED, PASSED),
    ("network_tier", "best", IGNORED, PASSED),
    ("local_disk", "nvme:100", IGNORED, PASSED),
    ("max_hourly_cost", 3.5, IGNORED, PASSED),
    ("ports", [8888, "9000-9010"], IGNORED, PASSED),
    ("labels", {"team": "vision"}, IGNORED, PASSED),
    ("autostop", {"idle_minutes": 5, "down": True}, IGNORED, PASSED),
    ("image_id", "docker:ubuntu:22.04", REFUSED, PASSED),
    ("volumes", [{"path": "/mnt"}], REFUSED, PASSED),
    ("accelerator_args", {"tpu_vm": True}, REFUSED, PASSED),
    ("instance_type", "p4d.24xlarge", IGNORED, REFUSED),
    ("job_recovery", "failover", REFUSED, REFUSED),
    ("spot_recovery", "failover", REFUSED, REFUSED),
    ("priority_class", "high", REFUSED, REFUSED),
    ("_docker_login_config", {}, REFUSED, REFUSED),
    ("_no_missing_accel_warnings", True, REFUSED, REFUSED),
    ("_is_image_managed", True, REFUSED, REFUSED),
    ("_requires_fuse", True, REFUSED, REFUSED),
    ("_cluster_config_overrides", {}, REFUSED, REFUSED),
]
# Named by their own rows of `test_scheduler_task`, as they choose the place.
PLACES = {"infra", "cloud"}


def text_of(path: str, value: object, *, infra: str) -> str:
    task: dict[str, object] = {"run": "x", "resources": {}}
    block, _, name = path.rpartition(".")
    if block:
        task["resources"] = {name: value}
    else:
        task[name] = value
    if infra:
        task["resources"] = {**task["resources"], "infra": infra}  # type: ignore[dict-item]
    return yaml.safe_dump(task)


ROWS = [*TASK, *((f"resources.{name}", *rest) for name, *rest in RESOURCES)]


@pytest.mark.parametrize(("path", "value", "here", "there"), ROWS, ids=[row[0] for row in ROWS])
@pytest.mark.parametrize("infra", ["", "aws"], ids=["here", "skypilot"])
def test_each_field_is_used_or_refused(
    path: str, value: object, here: object, there: object, infra: str
) -> None:
    use = there if infra else here
    text = text_of(path, value, infra=infra)
    if use == REFUSED:
        with pytest.raises(InvalidArgument) as caught:
            parse(text, skypilot=True)
        assert caught.value.metadata["path"] == path
        # Not only no: what to do.
        assert len(caught.value.message) > len(path) + 20
        return
    spec = parse(text, skypilot=True).spec
    assert spec.infra == infra
    if infra and use is PASSED:
        assert sent(text)[path] == value


def sent(text: str) -> dict[str, object]:
    """What SkyPilot gets, by path."""
    order = Order("main", "r" * 26, "a" * 26, 1, "", parse(text, skypilot=True).spec, Code(), "token")
    made = json.loads(task_text(order, tool=Tool("d", (), b""), around=Surroundings("http://x", "nats://x")))
    return {**made, **{f"resources.{name}": value for name, value in made["resources"].items()}}


def test_the_table_has_every_field_that_the_code_knows_and_says_the_same() -> None:
    for rows, table in ((TASK, fields.TASK), (RESOURCES, fields.RESOURCES)):
        known = {
            name: (*(REFUSED if isinstance(use, str) else use for use in (field.here, field.there)),)
            for name, field in table.items()
            if name not in PLACES
        }
        assert known == {name: (here, there) for name, _, here, there in rows}


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("config", "x", "a mapping"),
        ("inputs", [1], "a mapping"),
        ("resources.use_spot", "yes", "true or false"),
        ("resources.use_spot", 1, "true or false"),
        ("resources.disk_size", True, "a size"),
        ("resources.disk_size", [1], "a size"),
        ("resources.labels", "x", "a mapping"),
        ("resources.ports", {"a": 1}, "a port"),
        ("resources.max_hourly_cost", "3", "a number"),
        ("resources.region", 5, "a text"),
    ],
)
@pytest.mark.parametrize("infra", ["", "aws"], ids=["here", "skypilot"])
def test_a_value_of_a_wrong_kind_is_refused_wherever_it_runs(
    path: str, value: object, told: str, infra: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(text_of(path, value, infra=infra), skypilot=True)
    assert caught.value.metadata["path"] == path
    assert told in caught.value.message


def test_what_stands_in_a_choice_is_checked_as_at_the_top() -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse("run: x\nresources: {infra: aws, any_of: [{cpus: 1}, {instance_type: p4d}]}", skypilot=True)
    assert caught.value.metadata["path"] == "resources.any_of[1].instance_type"


def test_an_image_of_the_environment_is_skypilots_image_id() -> None:
    env = "{image: 'ghcr.io/lab/train:v3', requirements: [numpy]}"
    text = f"run: x\nresources: {{infra: k8s}}\ncairn: {{env: {env}}}"
    assert sent(text)["resources.image_id"] == "docker:ghcr.io/lab/train:v3"
    with pytest.raises(InvalidArgument) as caught:
        parse(text.replace("{infra: k8s}", "{infra: k8s, image_id: x}"), skypilot=True)
    assert caught.value.metadata["path"] == "cairn.env.image"


def test_skypilots_priority_is_ours_unless_ours_is_given() -> None:
    assert parse("run: x\nresources: {priority: -7}").priority == -7
    assert parse("run: x\nresources: {priority: -7}\ncairn: {priority: 3}").priority == 3


def test_secrets_and_registries_reach_skypilot_and_files_of_the_caller_do_not() -> None:
    text = (
        "run: x\nresources: {infra: k8s}\nsecrets: {SKYPILOT_DOCKER_PASSWORD: null}\n"
        "file_mounts: {/data: 's3://bucket', ~/x: ./x}"
    )
    order = Order(
        "main", "r" * 26, "a" * 26, 1, "", parse(text, skypilot=True).spec, Code(), "token",
        {"SKYPILOT_DOCKER_PASSWORD": "hf_12345678"},
    )  # fmt: skip
    made = json.loads(task_text(order, tool=Tool("d", (), b""), around=Surroundings("http://x", "nats://x")))
    assert made["secrets"] == {"SKYPILOT_DOCKER_PASSWORD": "hf_12345678", "CAIRN_NODE_TOKEN": "token"}
    assert made["file_mounts"] == {"/data": "s3://bucket"}
    assert "hf_12345678" not in repr(order) + json.dumps({**made, "secrets": {}})
