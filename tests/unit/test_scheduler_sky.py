"""What goes to SkyPilot, what comes back, and what that means; without SkyPilot."""

from __future__ import annotations

import json
import subprocess
import zipfile
from io import BytesIO

import pytest

from cairn.job.v1 import events_pb2
from cairn_common.errors import InvalidArgument
from cairn_scheduler.causes import Evidence, classify, wait_for_room
from cairn_scheduler.cluster import Order
from cairn_scheduler.model import Cause, Code, Resources, Spec
from cairn_scheduler.sky.errors import Kind, told
from cairn_scheduler.sky.order import Surroundings, script, task_text
from cairn_scheduler.sky.ranks import Ranks
from cairn_scheduler.sky.records import Record, Records
from cairn_scheduler.sky.tool import Tool, pack
from cairn_scheduler.task import parse

TOOL = Tool("digest", ("protobuf>=6", "nats-py<3"), b"archive")
TASK = """
num_nodes: 2
resources:
  infra: slurm/lab
  use_spot: true
  disk_size: 100
  image_id: docker:some/image
  ports: [8888]
  any_of: [{accelerators: 'A100:4'}, {accelerators: {H100: 8}, cpus: 16+}]
file_mounts: {/data: 's3://bucket/data', /out: {source: 'gs://out', mode: MOUNT}}
envs: {LR: 0.1}
run: python train.py
"""


def order(task: str) -> Order:
    return Order("main", "r" * 26, "a" * 26, 1, "", parse(task, skypilot=True).spec, Code(), "secret")


def test_what_is_for_skypilot_reaches_it_as_it_is_written() -> None:
    spec = parse(TASK, skypilot=True).spec
    assert (spec.infra, spec.pool, spec.num_nodes) == ("slurm/lab", "skypilot", 2)
    # Quotas count the most that any choice can take.
    assert spec.resources == Resources(16000, 8, "", 0)
    made = json.loads(task_text(order(TASK), tool=TOOL, around=Surroundings("http://x", "nats://x")))
    assert made["num_nodes"] == 2
    assert made["envs"] == {"LR": "0.1"}
    assert made["file_mounts"] == {
        "/data": "s3://bucket/data",
        "/out": {"source": "gs://out", "mode": "MOUNT"},
    }
    resources = made["resources"]
    assert resources.pop("autostop") == {"idle_minutes": 10, "down": True}
    assert resources == {
        "infra": "slurm/lab", "use_spot": True, "disk_size": 100, "image_id": "docker:some/image",
        "ports": [8888], "any_of": [{"accelerators": "A100:4"}, {"accelerators": {"H100": 8}, "cpus": "16+"}],
    }  # fmt: skip
    assert "secret" not in made["run"]
    assert made["secrets"] == {"CAIRN_NODE_TOKEN": "secret"}


@pytest.mark.parametrize(
    ("resources", "stops"),
    [
        ("infra: slurm/lab", False),
        ("any_of: [{infra: slurm/a}, {infra: slurm/b}]", False),
        ("infra: slurm/lab, image_id: 'docker:some/image'", True),
        ("any_of: [{infra: slurm/a}, {infra: aws}]", True),
        ("infra: aws", True),
    ],
)
def test_a_place_that_knows_no_autostop_is_not_asked_for_it(resources: str, stops: bool) -> None:
    task = f"run: x\nresources: {{{resources}}}"
    made = json.loads(task_text(order(task), tool=TOOL, around=Surroundings("http://x", "nats://x")))
    assert ("autostop" in made["resources"]) == stops


@pytest.mark.parametrize(
    ("resources", "infra"),
    [
        ("infra: local", ""),
        ("cpus: 1", ""),
        ("infra: aws/us-east-1", "aws/us-east-1"),
        ("infra: '*'", "*"),
        ("cloud: gcp", "gcp"),
        ("any_of: [{infra: slurm/a}, {infra: aws}]", "slurm/a,aws"),
        ("ordered: [{infra: k8s, accelerators: L4}]", "k8s"),
    ],
)
def test_where_a_job_runs(resources: str, infra: str) -> None:
    assert parse(f"run: x\nresources: {{{resources}}}", skypilot=True).spec.infra == infra


@pytest.mark.parametrize(
    ("task", "path"),
    [
        ("file_mounts: {/data: s3://x}", "file_mounts./data"),
        ("resources: {infra: aws, instance_type: p5.48xlarge}", "resources.instance_type"),
        ("resources: {infra: aws, nonsense: 1}", "resources.nonsense"),
        ("resources: {infra: 'a b'}", "resources.infra"),
        ("resources: {infra: 3}", "resources.infra"),
        ("resources: {infra: aws, accelerators: [1]}", "resources.accelerators"),
        ("resources: {infra: aws, accelerators: 'A100:x'}", "resources.accelerators.A100"),
        ("resources: {any_of: [{infra: aws, cpus: none}]}", "resources.any_of[0].cpus"),
        ("resources: {any_of: [{infra: aws}, {infra: local}]}", "resources.any_of"),
        ("resources: {infra: aws, any_of: []}", "resources.any_of"),
        ("resources: {infra: aws, ordered: [{any_of: []}]}", "resources.ordered[0]"),
        ("resources: {infra: aws}\nfile_mounts: {/data: {name: b, source: ./data}}", "file_mounts./data"),
        ("resources: {infra: aws}\nsecrets: {A: [b]}", "secrets.A"),
    ],
)
def test_what_cannot_be_passed_on_is_refused_with_its_path(task: str, path: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse(f"run: x\n{task}", skypilot=True)
    assert refused.value.metadata["path"] == path


def test_without_skypilot_there_is_this_machine_alone() -> None:
    with pytest.raises(InvalidArgument, match="--skypilot"):
        parse("run: x\nresources: {infra: slurm/lab}")


def test_the_nodes_script_is_a_script_and_its_archive_holds_the_runner() -> None:
    tool = pack()
    assert tool == pack()
    names = zipfile.ZipFile(BytesIO(tool.archive)).namelist()
    assert {"cairn/__init__.py", "cairn/_runner/node.py", "cairn/job/v1/events_pb2.py"} <= set(names)
    assert tool.needs
    assert all(";" not in need or "extra" not in need for need in tool.needs)
    text = script(order(TASK), tool=tool, around=Surroundings("http://x", "nats://x"))
    subprocess.run(["/bin/bash", "-n"], input=text, text=True, check=True, timeout=10)


@pytest.mark.parametrize(
    ("name", "message", "kind"),
    [
        ("ResourcesUnavailableError", "Catalog does not contain any instances satisfying ..", Kind.REFUSED),
        ("ResourcesUnavailableError", "Task requires aws which is not enabled.", Kind.REFUSED),
        ("ResourcesUnavailableError", "Failed to acquire resources in main (slurm).", Kind.FULL),
        ("ValueError", "Cluster nowhere not found in Slurm config.", Kind.REFUSED),
        ("InvalidSkyPilotConfigError", "x", Kind.REFUSED),
        ("ClusterDoesNotExist", "Cluster 'x' does not exist.", Kind.GONE),
        ("RequestCancelled", "", Kind.FORGOTTEN),
        ("CommandError", "ssh failed", Kind.BROKEN),
    ],
)
def test_errors_of_skypilot_are_told_apart(name: str, message: str, kind: Kind) -> None:
    assert told(name, message).kind is kind


def test_colours_and_hints_are_left_out() -> None:
    error = told("ResourcesUnavailableError", "No \x1b[1mroom\x1b[0m.\nHint: try again\nBye")
    assert str(error) == "No room. Bye"


def test_no_room_is_waited_for_and_never_counts_as_a_failure() -> None:
    ending = classify(Evidence(full=True, message="all taken"), asked=None)
    assert (ending.cause, ending.no_capacity) == (Cause.INFRA, True)
    waits = [wait_for_room(number) for number in (1, 2, 3, 10, 300)]
    assert [wait.total_seconds() for wait in waits if wait] == [30, 60, 120, 300, 300]
    assert wait_for_room(301) is None


def test_what_can_never_run_there_is_not_tried_again() -> None:
    ending = classify(Evidence(refused=True, message="no such GPU"), asked=None)
    assert (ending.cause, ending.no_capacity) == (Cause.USER_ERROR, False)
    assert "no such GPU" in ending.message


def said(**arms: object) -> events_pb2.JobEvent:
    return events_pb2.JobEvent(**arms)  # type: ignore[arg-type]


def ended(rank: int, **fields: object) -> events_pb2.JobEvent:
    told = {"phase": "run", "exit_code": 0, "end_time": 10.0 + rank} | fields
    return said(attempt_ended=events_pb2.AttemptEnded(rank=rank, **told))  # type: ignore[arg-type]


def test_a_gang_ends_as_the_first_rank_that_failed() -> None:
    ranks = Ranks(3)
    ranks.take(said(attempt_started=events_pb2.AttemptStarted(rank=1, start_time=3.0, pid=7)), now=1.0)
    assert (ranks.start_time, ranks.heard, ranks.over) == (3.0, 1.0, False)
    for event in (ended(1), ended(2, exit_code=3), ended(2, exit_code=5), ended(0, stopped=True, signal=15)):
        assert not ranks.over
        ranks.take(event, now=2.0)
    assert ranks.over
    assert ranks.evidence is not None
    assert (ranks.evidence.rank, ranks.evidence.exit_code, ranks.evidence.stopped) == (2, 3, False)


def test_the_cause_of_a_gangs_end_is_the_rank_that_failed_first_whoever_is_heard_first() -> None:
    ranks = Ranks(3)
    # Rank 0 lost its peer and was heard first; rank 1 had a reason of its own; rank 2 was told to stop.
    ranks.take(ended(0, exit_code=1, end_time=10.9, last_lines=["Connection reset by peer"]), now=1.0)
    ranks.take(ended(2, signal=15, stopped=True, end_time=10.2), now=1.0)
    ranks.take(ended(1, exit_code=7, end_time=10.5, last_lines=["ValueError: no"]), now=1.0)
    assert ranks.evidence is not None
    assert (ranks.evidence.rank, ranks.evidence.ranks, len(ranks.evidence.others)) == (1, 3, 2)
    ending = classify(ranks.evidence, asked=None)
    assert (ending.cause, ending.exit_code) == (Cause.USER_ERROR, 7)


def test_a_gang_that_ends_well_is_over_with_its_last_rank() -> None:
    ranks = Ranks(2)
    ranks.take(ended(0), now=1.0)
    assert not ranks.over
    ranks.take(ended(1), now=1.0)
    assert ranks.over
    assert ranks.evidence is not None
    assert (ranks.evidence.exit_code, ranks.evidence.end_time) == (0, 11.0)


def test_records_are_read_as_they_were_written(tmp_path) -> None:  # type: ignore[no-untyped-def]
    kept = Records(tmp_path / "sky")
    uid = "01arz3ndektsv4rrffq69g5fav"
    record = kept.save(Record(uid, "main", "r", f"cairn-x-{uid}", 2, 5.0, 7))
    end = Evidence(exit_code=1, last_lines=("a", "b"))
    record = kept.save(record, phase="ended", evidence=end)
    (tmp_path / "sky" / "01arz3ndektsv4rrffq69g5faw.json").write_text("{")
    assert Records(tmp_path / "sky").all() == [record]
    assert record.evidence == end
    path = tmp_path / "sky" / f"{uid}.json"
    raw = json.loads(path.read_text())
    del raw["after"]
    path.write_text(json.dumps({**raw, "sequence": 9}))
    assert kept.all()[0].after == 0, "its number is of another stream"
    kept.remove(uid)
    assert kept.all() == []


def test_specs_of_this_machine_stay_here() -> None:
    assert Spec(task="", setup="", run="x").pool == "local"
