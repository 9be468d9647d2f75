"""The quota tree: files become trees and back, what cannot rule is refused where it is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cairn_common import document
from cairn_common.errors import InvalidArgument, Reason
from cairn_quota import treefile
from cairn_quota.plain import Action, changes, plain
from cairn_quota.tree import EMPTY, HOUR, Kind, Overrun, Tree
from cairn_quota.validity import TreeInvalid, check

FILE = """
currency: USD
resources: [licences]
flavors:
  h100: {accelerator: h100, market: on-demand, pool: aws, factor: 3, price: 2.5}
  a100-spot: {accelerator: A100, market: spot}
priority_classes:
  urgent: {value: 500, preemptible: false, max_runtime: 4h}
tree:
  organisation: acme
  quotas:
    '*': {gpu: {max: 64}, jobs: {max: 500}}
  preemption: {within: lower, reclaim: any, borrowing: never}
  order: smallest
  min_runtime: 10m
  patience: 1h
  children:
    - group: research
      children:
        - team: vision
          weight: 2
          quotas:
            h100: {gpu: {nominal: 8, borrow_limit: 4, lend_limit: 2, max: 16}, mem: 512GiB}
            a100-spot: {gpu: 4.5, licences: 3}
          limits: {pending_jobs: 100, submits_per_hour: 600, gpus_per_job: 16, max_runtime: 7d}
          children:
            - project: seg
              children: [{user: ada, quotas: {h100: {gpu: {max: 2}}}}]
            - user: ada
    - team: speech
      id: sp
      stop: drain
budgets:
  vision-month: {node: vision, unit: gpu-hours, amount: 1000.5, window: {calendar: month, timezone: Europe/Zurich}, overrun: drain, safe: true}
  ada: {user: ada, unit: money, amount: 200.25, window: {rolling: 30d}, overrun: preempt}
  kickoff: {node: sp, unit: money, amount: 10, window: {one_off: {from: 2026-01-01, to: 2026-02-01T12:00:00+01:00}}}
reservations:
  paper: {node: vision, flavor: h100, amount: 4, from: 2026-12-01T00:00:00Z, to: 2026-12-08T00:00:00Z}
"""  # noqa: E501


def read(text: str) -> Tree:
    tree = treefile.parse(document.read(text, document.TREE))
    check(tree)
    return tree


def test_a_file_becomes_a_tree() -> None:
    tree = read(FILE)
    vision = tree.by_id["vision"]
    assert (vision.parent, vision.kind, vision.weight) == ("research", Kind.TEAM, 2000)
    quota = vision.quotas["h100", "gpu"]
    assert (quota.nominal, quota.borrow_limit, quota.lend_limit, quota.most) == (8000, 4000, 2000, 16_000)
    assert vision.quotas["h100", "mem"].nominal == 512 * 1024 * 1000
    assert vision.quotas["a100-spot", "gpu"].nominal == 4500
    assert tree.by_id["vision/seg/ada"].parent == "vision/seg"
    month, ada, kickoff = tree.budgets
    assert (month.amount, month.safe, month.overrun) == (1000 * HOUR + HOUR // 2, True, Overrun.DRAIN)
    assert (ada.amount, ada.window.rolling) == (200_250_000, 30 * 86_400_000)
    assert kickoff.window.end is not None
    assert kickoff.window.end.isoformat() == "2026-02-01T11:00:00+00:00"
    assert tree.by_flavor["h100"].factor == 3000


def test_the_flat_form_is_the_same_tree() -> None:
    nested = read("{tree: {organisation: a, children: [{team: b, children: [{user: u}]}]}}")
    flat = read("nodes: [{team: b, parent: a}, {organisation: a}, {user: u, parent: b}]")
    assert nested.by_id == flat.by_id


def test_a_tree_reads_back_from_what_it_is_written_as() -> None:
    tree = read(FILE)
    assert read(yaml.safe_dump(plain(tree), sort_keys=False)) == tree
    assert treefile.parse(plain(EMPTY)).by_id == EMPTY.by_id


def test_a_job_counts_at_the_deepest_node_that_is_its() -> None:
    tree = read(FILE)
    leaves = {
        (team, project, user): node.id if (node := tree.leaf(team=team, project=project, user=user)) else ""
        for team in ("vision", "speech", "nobody")
        for project in ("", "seg", "other")
        for user in ("", "ada")
    }
    assert leaves["vision", "seg", "ada"] == "vision/seg/ada"
    assert leaves["vision", "seg", ""] == "vision/seg"
    assert leaves["vision", "other", ""] == "vision"
    assert leaves["speech", "seg", "ada"] == "sp"
    assert leaves["nobody", "", "ada"] == ""


def test_what_differs_is_told_by_its_path() -> None:
    before = read(FILE)
    after = read(
        FILE.replace("borrow_limit: 4,", "borrow_limit: 6,")
        .replace("stop: drain", "weight: 3")
        .replace("  ada: {user", "  ada2: {user")
    )
    found = {(change.action, change.path, change.before, change.after) for change in changes(before, after)}
    window = "window: {rolling: 30d}, overrun: preempt}"
    assert found == {
        (Action.CHANGED, "nodes.vision.quotas.h100.gpu.borrow_limit", "4", "6"),
        (Action.REMOVED, "nodes.sp.stop", "drain", ""),
        (Action.ADDED, "nodes.sp.weight", "", "3"),
        (Action.ADDED, "budgets.ada2", "", f"{{user: ada, unit: money, amount: 200.25, {window}"),
        (Action.REMOVED, "budgets.ada", f"{{user: ada, unit: money, amount: 200.25, {window}", ""),
    }
    assert changes(after, after) == []


BUDGET = "{tree: {organisation: a}, budgets: {b: {%s}}}"
TEAM = "{tree: {organisation: a, children: [{team: b, %s}]}, flavors: {x: {}}}"


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        ("{}", "tree", "once"),
        ("{tree: {organisation: a}, trees: 3}", "trees", "did you mean `tree`"),
        ("{tree: {organisation: a, wieght: 3}}", "tree.wieght", "did you mean `weight`"),
        (TEAM % "quotas: {x: {gpu: {nominal: -1}}}", "tree.children[0].quotas.x.gpu.nominal", "negative"),
        (TEAM % "quotas: {x: {gpu: 1.0001}}", "tree.children[0].quotas.x.gpu", "steps of 1/1,000"),
        (TEAM % "quotas: {x: {gpu: .nan}}", "tree.children[0].quotas.x.gpu", "number"),
        (TEAM % "quotas: {x: {gpu: true}}", "tree.children[0].quotas.x.gpu", "number"),
        (TEAM % "quotas: {x: {gpu: [1]}}", "tree.children[0].quotas.x.gpu", "number"),
        (TEAM % "quotas: {y: {gpu: 1}}", "tree.b.quotas.y.gpu", "flavors of this tree: x"),
        (TEAM % "quotas: {x: {tpu: 1}}", "tree.b.quotas.x.tpu", "`resources`"),
        (TEAM % "quotas: {x: {jobs: 1}}", "tree.b.quotas.x.jobs", "'*'"),
        (TEAM % "quotas: {x: {mem: 12}}", "tree.children[0].quotas.x.mem", "512GiB"),
        (TEAM % "quotas: {x: {gpu: {nominal: 3, max: 2}}}", "tree.b.quotas.x.gpu.nominal", "max"),
        (TEAM % "quotas: {x: {gpu: {nominal: 3, lend_limit: 4}}}", "tree.b.quotas.x.gpu.lend_limit", "lend"),
        (TEAM % "weight: 0", "tree.b.weight", "above 0"),
        (TEAM % "stop: maybe", "tree.children[0].stop", "hold, drain"),
        (TEAM % "min_runtime: 10", "tree.children[0].min_runtime", "30m"),
        (TEAM % "limits: {gpus: 3}", "tree.children[0].limits.gpus", "gpus_per_job"),
        (TEAM % "children: [{team: c}]", "tree.c", "below a team"),
        (TEAM % "children: [{user: Ada}]", "tree.b/Ada", "not an id"),
        (TEAM % "children: [{user: ada}, {user: ada}]", "tree.b/ada", "2 times"),
        (TEAM % "children: [{user: u, children: [{user: v}]}]", "tree.b/u/v", "leaf"),
        (TEAM % "team: c", "", "twice"),
        (TEAM % "user: c", "tree.children[0]", "exactly one"),
        ("{tree: {organisation: a, children: [{user: u}]}}", "tree.a/u", "below a team"),
        ("{tree: {team: a}}", "tree.a", "organisation"),
        ("{nodes: [{organisation: a}, {organisation: b}]}", "tree", "one root"),
        ("{nodes: [{organisation: a}, {team: b, parent: c}]}", "tree.b.parent", "no node 'c'"),
        ("nodes: [{organisation: a}, {group: b, parent: c}, {group: c, parent: b}]", "tree.b.", "cycle"),
        ("tree: &t {organisation: a, children: [*t]}", "tree", "cycle"),
        (BUDGET % "node: a, amount: 3, window: {rolling: 1d}", "budgets.b.unit", "unit"),
        (BUDGET % "node: a, unit: money, window: {rolling: 1d}", "budgets.b.amount", "amount"),
        (BUDGET % "node: a, unit: money, amount: 3", "budgets.b.window", "window"),
        (BUDGET % "unit: money, amount: 3, window: {rolling: 1d}", "budgets.b", "node or a user"),
        (BUDGET % "node: c, unit: money, amount: 3, window: {rolling: 1d}", "budgets.b.node", "no node"),
        (
            BUDGET % "node: a, unit: money, amount: 3, window: {calendar: month, timezone: Mars/Base}",
            "budgets.b.window.timezone",
            "Europe/Berlin",
        ),
        ("{tree: {organisation: a}, priority_classes: {u: {value: 1001}}}", "priority_classes.u.value", "0"),
        ("{tree: {organisation: a, quotas: {'*': {gpu: {borrow_limit: 1}}}}}", "tree.a.quotas.*.gpu", "root"),
    ],
)  # fmt: skip
def test_what_cannot_rule_is_refused_where_it_is_wrong(text: str, path: str, words: str) -> None:
    with pytest.raises((TreeInvalid, InvalidArgument)) as caught:
        read(text)
    error: Any = caught.value
    if isinstance(error, InvalidArgument):
        # Not even YAML as we read it.
        assert error.reason is Reason.TREE_INVALID
    else:
        assert error.path.startswith(path)
    assert words in str(error)


def test_a_child_may_not_be_over_its_parents_max() -> None:
    text = (
        "{tree: {organisation: a, quotas: {'*': {gpu: {max: 8}}}, children:"
        " [{team: b, quotas: {'*': {gpu: {max: 9}}}}]}}"
    )
    with pytest.raises(TreeInvalid, match=r"9 is over the max 8 of a above it") as caught:
        read(text)
    assert caught.value.path == "tree.b.quotas.*.gpu.max"
    text = (
        "{flavors: {x: {}}, tree: {organisation: a, quotas: {x: {gpu: {max: 8}}}, children:"
        " [{team: b, quotas: {x: {gpu: 5}}}, {team: c, quotas: {x: {gpu: 4}}}]}}"
    )
    with pytest.raises(TreeInvalid, match="from here down are 9, over this max 8"):
        read(text)


def test_the_tree_file_in_the_readme_rules() -> None:
    text = (Path(__file__).parents[2] / "sdk" / "README.md").read_text()
    example = text.partition("## Quotas")[2].partition("```yaml\n")[2].partition("```")[0]
    assert read(example).by_id["vision"].weight == 2000
