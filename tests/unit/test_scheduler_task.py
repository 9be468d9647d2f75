"""The task file: what is read from it, and how it is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_common.errors import InvalidArgument
from cairn_scheduler.model import Resources
from cairn_scheduler.secrecy import settle
from cairn_scheduler.task import parse

FULL = """
name: digits-cnn
workdir: .
num_nodes: 2
envs: {LR: 0.1, NAME: first, FLAG: yes, EMPTY: '', DAY: 2026-01-02}
resources:
  cpus: 2+
  memory: 4GB+
  accelerators: {a100-80gb: 2}
  infra: local
setup: pip list
run: python train.py
cairn:
  experiment: digits
  priority: -7
  max_retries: 0
  max_runtime: 1h 30m
  grace: 2.5
"""


def test_everything_in_a_task_is_honoured() -> None:
    task = parse(FULL)
    assert (task.name, task.experiment, task.priority, task.grid) == ("digits-cnn", "digits", -7, ())
    spec = task.spec
    assert spec.task == FULL
    assert (spec.setup, spec.run, spec.num_nodes) == ("pip list", "python train.py", 2)
    assert spec.envs == {"LR": "0.1", "NAME": "first", "FLAG": "True", "EMPTY": "", "DAY": "2026-01-02"}
    assert spec.resources == Resources(2000, 2, "A100-80GB", 4096)
    assert spec.need == Resources(4000, 4, "A100-80GB", 8192)
    assert (spec.max_retries, spec.max_runtime, spec.grace) == (0, 5400.0, 2.5)


def test_what_is_not_said_has_its_default() -> None:
    spec = parse("run: x").spec
    assert (spec.num_nodes, spec.resources, spec.envs) == (1, Resources(1000, 0, "", 0), {})
    assert (spec.max_retries, spec.max_runtime, spec.grace) == (3, None, 10.0)


@pytest.mark.parametrize(
    ("text", "resources"),
    [
        ("cpus: 2", Resources(2000)),
        ("cpus: '0.5'", Resources(500)),
        ("cpus: 1.5+", Resources(1500)),
        ("memory: 16", Resources(memory_mib=16384)),
        ("memory: 512MB", Resources(memory_mib=512)),
        ("accelerators: A100", Resources(gpus=1, accelerator="A100")),
        ("accelerators: 'A100:2'", Resources(gpus=2, accelerator="A100")),
        ("accelerators: {A100: 2}", Resources(gpus=2, accelerator="A100")),
        ("accelerators: {A100: 2.0}", Resources(gpus=2, accelerator="A100")),
        ("accelerators: GPU:1", Resources(gpus=1)),
        ("infra: local", Resources()),
        ("cloud: local", Resources()),
        ("cpus: 4+", Resources(4000)),
        ("'cpus': 2, memory: 8x", Resources(2000, memory_mib=16384)),
        ("memory: 0", Resources()),
        ("memory: 1gi", Resources(memory_mib=1024)),
        ("accelerators: [A100, 'V100:2']", Resources(gpus=1, accelerator="A100")),
        ("accelerators: '{A100:2, V100:1}'", Resources(gpus=2, accelerator="A100")),
        ("any_of: [{cpus: 4}, {cpus: 2}]", Resources(4000)),
        ("cpus: 8, ordered: [{accelerators: L4}, {cpus: 2}]", Resources(8000, 1, "L4")),
    ],
)
def test_amounts_are_read_as_skypilot_writes_them(text: str, resources: Resources) -> None:
    assert parse(f"run: x\nresources: {{{text}}}").spec.resources == resources


@pytest.mark.parametrize(
    ("value", "seconds"), [("90", 90), ("90s", 90), ("2m", 120), ("1h 30m", 5400), ("1d2h", 93600)]
)
def test_durations_are_seconds_or_words(value: str, seconds: float) -> None:
    assert parse(f"run: x\ncairn: {{max_runtime: {value}}}").spec.max_runtime == seconds


@pytest.mark.parametrize(
    ("text", "path", "told"),
    [
        ("", "", "mapping of fields"),
        ("- a", "", "mapping of fields"),
        ("name: x", "run", "is empty"),
        ("run: '  '", "run", "is empty"),
        ("run: [a]", "run", "not a list"),
        ('run: "a\\0b"', "run", "NUL"),
        ('run: "a\\ud800b"', "run", "Unicode"),
        (f"run: {'x' * 130_000}", "run", "longer than 120 KiB"),
        ("run: x\nrum: y", "rum", "did you mean `run`"),
        ("run: x\nresources: {acelerators: A100}", "resources.acelerators", "did you mean `accelerators`"),
        ("run: x\nresources: {cpus: many}", "resources.cpus", "not an amount"),
        ("run: x\nresources: {cpus: 0}", "resources.cpus", "above zero"),
        ("run: x\nresources: {cpus: -1}", "resources.cpus", "not an amount"),
        ("run: x\nresources: {cpus: .inf}", "resources.cpus", "not an amount"),
        ("run: x\nresources: {cpus: true}", "resources.cpus", "not an amount"),
        ("run: x\nresources: {cpus: 1e300}", "resources.cpus", "not an amount"),
        ("run: x\nresources: {infra: aws}", "resources.infra", "`local`"),
        ("run: x\nresources: {cloud: aws}", "resources.cloud", "`local`"),
        ("run: x\nresources: {any_of: [{cpus: 1, infra: k8s}]}", "resources.any_of[0].infra", "`local`"),
        ("run: x\nresources: {any_of: [{cpus: many}]}", "resources.any_of[0].cpus", "not an amount"),
        ("run: x\nresources: {any_of: {cpus: 1}}", "resources.any_of", "a list"),
        ("run: x\nresources: {memory: 8y}", "resources.memory", "not an amount"),
        ("run: x\nresources: {priority: high}", "resources.priority", "not a whole number"),
        ("run: x\nresources: {priority: 1001}", "resources.priority", "-1,000 to 1,000"),
        ("run: x\nresources: {accelerators: 'A100:0.5'}", "resources.accelerators", "whole numbers"),
        ("run: x\nresources: {accelerators: 'A100:0'}", "resources.accelerators.A100", "above 0"),
        ("run: x\nresources: {accelerators: 'A100:x'}", "resources.accelerators.A100", "above 0"),
        ("run: x\nresources: {accelerators: {A100: .nan}}", "resources.accelerators.A100", "above 0"),
        ("run: x\nresources: {accelerators: [A, 1]}", "resources.accelerators", "of the form"),
        ("run: x\nresources: {accelerators: {}}", "resources.accelerators", "names none"),
        ("run: x\nresources: {accelerators: 'a b'}", "resources.accelerators", "of the form"),
        ("run: x\nresources: 4", "resources", "mapping"),
        ("run: x\nfile_mounts: {/data: s3://x}", "file_mounts./data", "no buckets"),
        ("run: x\nfile_mounts: {/data: ./x}", "file_mounts./data", "Give a relative path (data)"),
        ("run: x\nfile_mounts: {~/data: ./x}", "file_mounts.~/data", "Give a relative path (data)"),
        ("run: x\nfile_mounts: {a/../b: ./x}", "file_mounts.a/../b", "no path on the node"),
        ("run: x\nfile_mounts: {/: ./x}", "file_mounts./", "no path on the node"),
        ("run: x\nfile_mounts: {data: {name: b, source: ./x}}", "file_mounts.data", "bucket's URL"),
        ("run: x\nfile_mounts: {data: 4}", "file_mounts.data", "neither the path"),
        ("run: x\nfile_mounts: [data]", "file_mounts", "a mapping"),
        ("run: x\nsecrets: hf_12345678", "secrets", "not a text"),
        ("run: x\nsecrets: [1]", "secrets[0]", "the name of a variable"),
        ("run: x\nsecrets: {A B: c}", "secrets.A B", "not a name"),
        ("run: x\nsecrets: {CAIRN_X: c}", "secrets.CAIRN_X", "platform"),
        ("run: x\nsecrets: {A: [hf_12345678]}", "secrets.A", "one value"),
        ("run: x\nenvs: {A: 1}\nsecrets: {A: hf_12345678}", "secrets.A", "in `envs`, too"),
        ("run: x\nenvs: {B: &b hf_12345678}\nsecrets: {A: *b}", "secrets.A", "an alias"),
        ("run: x\nconfig: {hooks: []}", "config.hooks", "no hooks here"),
        ("run: x\nconfig: {active_workspace: b}", "config.active_workspace", "follows from the team"),
        ("run: x\nworkdir: {ref: main}", "workdir.url", "is missing"),
        ("run: x\nworkdir: {url: git, branch: main}", "workdir.branch", "no such field"),
        ("run: x\ncairn: {env: {image: 'ubuntu:22.04'}}", "cairn.env.image", "plain processes"),
        ("run: x\nnum_nodes: 1000000000", "num_nodes", "1 to 1,000"),
        ("run: x\nnum_nodes: 0", "num_nodes", "1 to 1,000"),
        ("run: x\nnum_nodes: 1.5", "num_nodes", "whole number"),
        (f"run: x\nnum_nodes: {'1:' * 100_000}1", "", "a number of 200,001 characters"),
        ("run: x\nname: a b", "name", "of the form"),
        ("run: x\nenvs: {1A: x}", "envs.1A", "not a name"),
        ("run: x\nenvs: {A: null}", "envs.A", "has no value"),
        ("run: x\nenvs: {A: [1]}", "envs.A", "one value"),
        ("run: x\nenvs: {CAIRN_PRIVATE_REFERENCES: 1, CAIRN_TOKEN: x}", "envs.CAIRN_TOKEN", "platform"),
        ("run: x\nenvs: {CUDA_VISIBLE_DEVICES: 0}", "envs.CUDA_VISIBLE_DEVICES", "platform"),
        (f"run: x\nenvs: {{A: {'x' * 70_000}}}", "envs.A", "longer than 64 KiB"),
        ("run: x\ncairn: {experiment: My Exp}", "cairn.experiment", "of the form"),
        ("run: x\ncairn: {priority: 1001}", "cairn.priority", "-1,000 to 1,000"),
        ("run: x\ncairn: {max_runtime: soon}", "cairn.max_runtime", "not a duration"),
        ("run: x\ncairn: {max_runtime: 0}", "cairn.max_runtime", "between"),
        ("run: x\ncairn: {max_runtime: .nan}", "cairn.max_runtime", "between"),
        ("run: x\ncairn: {max_retry: 1}", "cairn.max_retry", "did you mean `max_retries`"),
        ("run: x\ncairn: {checkpoint: y}", "cairn.checkpoint", "no such field"),
        ("run: x\ncairn: {sweep: {}}", "cairn.sweep.parameters", "is empty"),
        ("run: x\ncairn: {sweep: {grid: {}}}", "cairn.sweep.grid", "no such field"),
        (
            "run: x\nenvs: {RATE: 1}\ncairn: {sweep: {parameters: {RAT: [1]}}}",
            "cairn.sweep.parameters.RAT",
            "`RATE`",
        ),
        ("run: x\nenvs: {A: 1}\ncairn: {sweep: {parameters: {A: 1}}}", "cairn.sweep.parameters.A", "list"),
        ("run: x\nenvs: {A: 1}\ncairn: {sweep: {parameters: {A: []}}}", "cairn.sweep.parameters.A", "list"),
        (
            "run: x\nenvs: {A: 1}\ncairn: {sweep: {parameters: {A: [1, 1]}}}",
            "cairn.sweep.parameters.A",
            "twice",
        ),
        (
            "run: x\nenvs: {A: 1}\ncairn: {sweep: {parameters: {A: [{}]}}}",
            "cairn.sweep.parameters.A[0]",
            "one",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_path(text: str, path: str, told: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(text)
    assert (caught.value.reason, caught.value.metadata["path"]) == ("TASK_INVALID", path)
    assert told in caught.value.message


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("run: [", 1, 7),
        ("run: x\nenvs:\n  A: 1\n   B: 2", 4, 5),
        ("run: a\nrun: b", 2, 1),
        ("envs: {A: 1, A: 2}\nrun: x", 1, 14),
        ("run: x\n1: y", 2, 1),
        ("run: !!python/object:os.system x", 1, 6),
        ("run: !include /etc/passwd", 1, 6),
        ("---\nrun: a\n---\nrun: b", 3, 1),
        ("run: x\nenvs: &a {A: 1}\ncairn: {<<: *a}", 3, 9),
        ("run: *missing", 1, 6),
    ],
)
def test_malformed_yaml_is_shown_where_it_is(text: str, line: int, column: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(text)
    assert caught.value.reason == "TASK_INVALID"
    assert (caught.value.metadata["line"], caught.value.metadata["column"]) == (str(line), str(column))


@pytest.mark.parametrize(
    "text",
    [
        "x: " + "[" * 1000,
        "x: " + "{a: " * 1000,
        "x: [" + "1, " * 30_000 + "1]",
        "run: x\nenvs: {A: " + "9" * 10_000 + "}",
        "run: x #" + "x" * 300_000,
        "a: &a [1,1,1,1,1,1,1,1]\n"
        + "\n".join(
            f"{n}: &{n} [{', '.join([f'*{p}'] * 8)}]" for p, n in zip("abcdefg", "bcdefgh", strict=True)
        )
        + "\nrun: *h",
        "run: &a [*a]",
        "run: x\x07",
    ],
)
def test_what_is_made_to_hurt_is_refused_quickly(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse(text)


def test_a_swept_task_is_still_a_plain_task_with_the_last_parameter_turning_fastest() -> None:
    task = parse(
        "run: x\nenvs: {LR: 1, SEED: null, K: v}\n"
        "cairn: {sweep: {parameters: {LR: [0.1, 1e-3], SEED: [1, 2]}}}"
    )
    assert [spec.params for spec in task.jobs()] == [
        {"LR": "0.1", "SEED": "1"},
        {"LR": "0.1", "SEED": "2"},
        {"LR": "1e-3", "SEED": "1"},
        {"LR": "1e-3", "SEED": "2"},
    ]
    assert all(spec.envs == {"K": "v", **spec.params} for spec in task.jobs())


@given(st.text(max_size=300))
def test_any_text_is_a_task_or_refused(text: str) -> None:
    try:
        parse(text)
    except InvalidArgument:
        pass


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(["envs", "resources", "cairn", "num_nodes", "setup", "run", "name", "workdir"]),
)
def test_any_value_of_any_field_is_used_or_refused(value: object, field: str) -> None:
    import yaml

    try:
        parse(yaml.safe_dump({"run": "x", field: value}))
    except InvalidArgument:
        pass


def test_of_several_choices_this_machine_takes_the_first_that_it_could_hold() -> None:
    text = "run: x\nnum_nodes: 2\nresources: {any_of: [{accelerators: {H100: 8, L4: 2}}, {cpus: 4}]}"

    def chosen(gpus: int) -> Resources:
        return parse(text, fits=lambda need: need.gpus <= gpus).spec.resources

    assert chosen(16) == Resources(1000, 8, "H100")
    # Two nodes of two each.
    assert chosen(4) == Resources(1000, 2, "L4")
    assert chosen(0) == Resources(4000)


def test_values_of_secrets_are_no_part_of_what_a_job_keeps() -> None:
    text = (
        "# a comment\nrun: echo $A\nsecrets:\n  A: hf_12345678  # from the vault\n"
        "  B: |\n    -----KEY\n    abc\n"
        "  C: null\n  D: 'x: y'\nenvs: {E: 1}\n"
    )
    task = parse(text)
    assert task.secrets == {"A": "hf_12345678", "B": "-----KEY\nabc\n", "C": None, "D": "x: y"}
    assert task.spec.task == (
        "# a comment\nrun: echo $A\nsecrets:\n  A: null  # from the vault\n  B: null\n"
        "  C: null\n  D: null\nenvs: {E: 1}\n"
    )
    assert "hf_12345678" not in repr(task)
    assert parse("run: x\nsecrets: [A, 'secrets:B']").secrets == {"A": None, "B": None}


def test_secrets_come_from_the_request_the_file_or_the_store_and_stand_nowhere_else() -> None:
    declared = {"A": None, "B": "in the file", "D": None}
    stored = {"A": "kept", "D": "kept, too"}
    made = settle(declared, {"A": "given", "C": "more"}, stored=stored, shown=["run"])
    assert made.kept == {"C": "more", "A": "given", "B": "in the file", "D": None}
    assert set(made.values) == {"given", "in the file", "more", "kept, too"}
    assert "kept" not in repr(made)
    with pytest.raises(InvalidArgument, match="known for A, D") as caught:
        settle({"A": None, "D": None}, {}, stored={}, shown=[])
    assert caught.value.metadata["path"] == "secrets.A"
    with pytest.raises(InvalidArgument):
        settle({"D": None}, {}, stored=stored, shown=["train.py --token 'kept, too'"])
    with pytest.raises(InvalidArgument) as caught:
        settle({}, {"A": "hf_12345678"}, stored={}, shown=["train.py --token hf_12345678"])
    assert caught.value.metadata["path"] == "secrets.A"
    assert "hf_" not in caught.value.message
