"""Models, datasets, evaluations and lineage from the command line, made by one job of the whole platform."""

from __future__ import annotations

import html
import itertools
import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from cairn import _looking
from cairn._looking import difference, table
from cairn._transfer import entries_of
from cairn.client import Client
from tests.harness.browser import browse, page
from tests.harness.people import invite
from tests.harness.platform import Platform
from tests.harness.rescue import INTERVAL, rounds

TRAIN = """
import cairn

run = cairn.init(strict=True)
cairn.save_dataset("digits-set", [{"x": n, "y": n % 2} for n in range(100)])
cairn.save_dataset("digits-set", [{"x": n, "y": n % 2, "z": 0.5} for n in range(150)], aliases=["test"])
cairn.save_dataset("elsewhere", "s3://bucket/digits/", digest="sha256:" + "a" * 64)
cairn.use_artifact("digits-set:v1")
for number, acc in enumerate((0.7, 0.9, 0.8), start=1):
    open("model.txt", "w").write(f"weights {number}")
    made = cairn.save_model("model.txt", "digits-net", framework="text", metrics={"acc": acc})
    rows = [{"x": 1, "right": True}]
    cairn.log_evaluation(made, "digits-set:test", {"acc": acc, "loss": 1 - acc}, table=rows)
cairn.log({"acc": 0.8}, step=1)
"""


def read(platform: Platform, *arguments: str) -> Any:
    done = platform.cairn(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def client(cli_platform: Platform) -> Client:
    return cli_platform.client()


@pytest.fixture(scope="module")
def trained(cli_platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of a job that made them all."""
    work = tmp_path_factory.mktemp("results")
    (work / "train.py").write_text(TRAIN)
    done = cli_platform.cairn(
        "run", "-f", "--json", "-n", "maker", "--", sys.executable, "train.py", cwd=work
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return str(json.loads(done.stdout)["id"])


def test_a_model_leads_in_one_step_to_metrics_code_data_and_environment(
    cli_platform: Platform, trained: str
) -> None:
    listed = cli_platform.cairn("models", "ls").stdout
    assert next(line for line in listed.splitlines() if "digits-net:v3" in line).split()[1] == "text"
    assert len(read(cli_platform, "models", "ls", "digits-net")) == 3
    shown = cli_platform.cairn("models", "show", "digits-net:v2").stdout
    for words in (
        "digits-net:v2",
        "acc 0.9",
        "made from digits-set:v1",
        trained,
        "maker",
        "archive",
        "python",
    ):
        assert words in shown
    inputs = read(cli_platform, "models", "show", "digits-net:v2")["lineage"]["inputs"]
    assert [name.partition("/artifacts/")[2] for name in inputs] == ["digits-set/versions/1"], (
        "not its siblings"
    )
    compared = cli_platform.cairn("models", "compare", "digits-net:v1", "digits-net:v2").stdout
    assert next(line for line in compared.splitlines() if line.startswith("acc")).split() == [
        "acc",
        "0.7",
        "0.9",
    ]
    assert cli_platform.cairn("models", "show", "digits-net:nosuch").returncode == 3
    assert cli_platform.cairn("models", "compare", "digits-net").returncode == 2


def test_a_promotion_waits_for_a_second_person(cli_platform: Platform, client: Client, trained: str) -> None:
    assert cli_platform.cairn("models", "promote", "digits-net", "--to", "live").returncode == 2
    assert "is live" in cli_platform.cairn("models", "promote", "digits-net:v2", "--to", "live").stdout
    assert read(cli_platform, "models", "rules", "live") == ["live"]
    member = Client(client.url, invite(cli_platform.data).member, "main")
    assert member.promote("digits-net", 3, "live", note="newer")["state"] == "PENDING"
    waiting = cli_platform.cairn("models", "promotions").stdout
    assert "digits-net:v3" in waiting
    assert "newer" in waiting
    [wish] = read(cli_platform, "models", "promotions")
    refused = cli_platform.cairn("artifacts", "alias", "digits-net:v3", "live")
    assert refused.returncode == 1
    assert "cairn models promote" in refused.stderr
    assert "digits-net:v3" in cli_platform.cairn("models", "approve", wish["uid"][:20]).stdout
    assert cli_platform.cairn("models", "approve", wish["uid"][:20]).returncode == 3
    assert client.version("digits-net", "live")["version"] == 3
    assert read(cli_platform, "models", "rules", "--clear") == []
    assert cli_platform.cairn("models", "promote", "digits-net:v2", "--to", "production").returncode == 0


def test_what_changed_in_a_dataset_is_told_and_its_first_rows_are_shown(
    cli_platform: Platform, client: Client, trained: str
) -> None:
    told = read(cli_platform, "datasets", "diff", "digits-set:v1", "digits-set:test")
    [change] = told["changed"]
    assert (change["path"], change["columns_added"], change["columns_removed"]) == ("data.jsonl", ["z"], [])
    assert (change["rows_before"], change["rows"], told["same"]) == (100, 150, 0)
    said = cli_platform.cairn("datasets", "diff", "digits-set:v1", "digits-set:v2").stdout
    assert "rows 100 > 150  +z" in said
    shown = read(cli_platform, "datasets", "preview", "digits-set:v2", "-n", "2")
    assert shown["first"] == [{"x": 0, "y": 0, "z": 0.5}, {"x": 1, "y": 1, "z": 0.5}]
    assert cli_platform.cairn("datasets", "preview", "elsewhere").returncode == 3
    listed = cli_platform.cairn("datasets", "ls").stdout
    assert "elsewhere" in next(line for line in listed.splitlines() if "elsewhere:v1" in line)[20:]


def test_a_preview_reads_no_more_than_it_shows(client: Client, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    folder = tmp_path / "tables"
    folder.mkdir()
    numbers = [(n * 2654435761) % 2**32 for n in range(600_000)]
    parquet.write_table(
        pyarrow.table({"n": numbers}), folder / "big.parquet", row_group_size=20_000, compression="none"
    )
    (folder / "wide.csv").write_text("a,b\n" + "1,2\n" * 200_000)
    first = client.publish(folder, "tables", kind="dataset")
    big, wide = entries_of(client.api, first)
    assert big.size > 4_000_000
    files: list[_looking.RangedFile] = []

    class Counted(_looking.RangedFile):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            files.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_looking, "RangedFile", Counted)
        found = table(client.api, client.team, big, rows=3)
        assert (found.columns, found.rows) == ([("n", "int64")], 600_000)
        assert [row["n"] for row in found.first] == numbers[:3]
        assert table(client.api, client.team, wide, rows=1).first == [{"a": "1", "b": "2"}]
    assert [file.read_bytes < 700_000 for file in files] == [True, True], [file.read_bytes for file in files]
    (folder / "wide.csv").write_text("a,c\n1,2\n")
    (folder / "more.txt").write_text("x")
    parquet.write_table(pyarrow.table({"n": [0.5]}), folder / "big.parquet")
    second = client.publish(folder, "tables", kind="dataset")
    told = difference(client.api, client.team, client.version("tables", 1), second)
    assert (told.added, told.removed, told.same) == ([("more.txt", 1)], [], 0)
    one, other = told.changed
    assert (one.columns_retyped, one.rows_before, one.rows) == (["n: int64 > double"], 600_000, 1)
    assert (other.columns_added, other.columns_removed, other.rows_before, other.rows) == (
        ["c"],
        ["b"],
        200_000,
        1,
    )


def test_a_board_ranks_models_and_flags_what_got_worse(cli_platform: Platform, trained: str) -> None:
    board = read(cli_platform, "evals", "board", "digits-set", "-m", "acc")
    models = [row["model"].split("/artifacts/")[1] for row in board["rows"]]
    assert models == [f"digits-net/versions/{number}" for number in (2, 3, 1)]
    said = cli_platform.cairn("evals", "board", "digits-set:test", "--fail")
    assert said.returncode == 1
    assert "acc was 0.9" in next(line for line in said.stdout.splitlines() if "digits-net:v3" in line)
    assert cli_platform.cairn("evals", "board", "digits-set", "--tolerance", "0.2", "--fail").returncode == 0
    assert "digits-net:v3" in cli_platform.cairn("evals", "ls").stdout
    assert cli_platform.cairn("evals", "board", "nosuch").returncode == 3
    said = cli_platform.cairn("evals", "board", "digits-net")
    assert said.returncode == 2
    assert "digits-net is a model" in said.stderr


def test_lineage_is_a_tree_up_and_down(cli_platform: Platform, trained: str) -> None:
    tree = cli_platform.cairn("lineage", "digits-net:v2").stdout
    up, down = tree.split("led to")
    for words in ("digits-net:v2", trained, "maker", "code ", "digits-set:v1"):
        assert words in up
    assert "evaluation digits-net-on-digits-set:v2" in down
    only = cli_platform.cairn("lineage", "digits-set:v1", "--down").stdout
    assert "comes from" not in only
    assert "digits-net:v3" in only
    graph = read(cli_platform, "lineage", trained)
    assert graph["nodes"][0]["name"].endswith(trained)
    missing = cli_platform.cairn("lineage", "nosuch")
    assert missing.returncode == 3
    assert "no artifact nosuch, and no job or run" in missing.stderr
    assert "there is no artifact digits-net:v99 in" in cli_platform.cairn("lineage", "digits-net:v99").stderr


SHARDED = """
import os
import time
import cairn

rank = int(os.environ["RANK"])
checkpoint = cairn.latest_checkpoint()
first = checkpoint.step + 1 if checkpoint else 0
held = sorted(path.read_text() for path in checkpoint.path.iterdir()) if checkpoint else []
print(f"rank {rank} begins at {first} with {held}")
for step in range(first, 4):
    if step == 2 and os.environ["CAIRN_ATTEMPT"] == "1" and rank == 1:
        while cairn.latest_checkpoint() is None:
            time.sleep(0.05)  # the other rank has only begun
        os.kill(os.getpid(), 9)
    open(f"state-{rank}.txt", "w").write(f"{rank} at {step}")
    cairn.save_checkpoint(f"state-{rank}.txt", step=step, wait=True, sharded=True)
"""


def test_two_nodes_go_on_together_from_what_both_have_saved(
    cli_platform: Platform, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(SHARDED)
    (tmp_path / "task.yaml").write_text(
        f"name: sharded\nworkdir: .\nnum_nodes: 2\nresources: {{cpus: 0.5}}\nrun: {sys.executable} train.py\n"
    )
    done = cli_platform.cairn("run", "task.yaml", "-f", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    uid = json.loads(done.stdout)["id"]
    lines = [line["text"] for line in client.logs(uid, attempt=2)["lines"] if "begins at" in line["text"]]
    begun = sorted(line.partition(" begins ")[2] for line in lines)
    assert begun[0] == begun[1], "both ranks from the same checkpoint"
    # Rank 0 may have been ended on the way to the commit of step 1: at most one interval is lost.
    assert begun[0] in (f"at {step + 1} with ['0 at {step}', '1 at {step}']" for step in (0, 1))
    steps = [version["step"] for version in client.checkpoints(uid)]
    assert steps in ([3, 2, 1, 0], [3, 2, 1, 1, 0])
    assert {len(client.version(f"checkpoint-{uid}", number)["entries"]) for number in (1, 2, 3, 4)} == {2}


def test_a_killed_training_loses_at_most_one_interval_wherever_it_is_started_again(
    cli_platform: Platform, tmp_path: Path
) -> None:
    done = list(rounds(cli_platform, tmp_path, 5, chance=random.Random()))
    for before, after in itertools.pairwise(done):
        assert after.begun > before.committed, f"a committed checkpoint was passed over: {done}"
        assert before.reached + 1 - after.begun <= INTERVAL, f"more than one interval was lost: {done}"
    assert done[-1].reached > 0


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_a_browser_shows_results_and_lineage_and_what_they_say_is_text(
    cli_platform: Platform, client: Client, trained: str, tmp_path: Path
) -> None:
    hostile = "<img src=x onerror=document.title='owned'>"
    (tmp_path / "w").write_text("w")
    client.publish(tmp_path / "w", "hostile", kind="model", metadata={"framework": hostile})
    assert cli_platform.cairn("models", "promote", "digits-net:v1", "--to", "seen").returncode == 0
    url = cli_platform.cairn("open", "--print").stdout.strip().partition("&view=")[0]
    seen = browse(f"{url}&view=/models", tmp_path)
    assert "digits-net:v2" in seen
    for words in ("Version to promote", "Promote</button>", "approved"):
        assert words in seen
    assert html.escape(hostile, quote=False) in seen
    assert "owned" not in seen.partition("</title>")[0]
    seen = browse(f"{url}&view=/datasets", tmp_path)
    assert "digits-set:v2" in seen
    assert 'href="#/board/digits-set"' in browse(f"{url}&view=/evaluations", tmp_path)
    seen = browse(f"{url}&view=/board/digits-set", tmp_path)
    for words in ("Leaderboard of digits-set", "digits-net:v2", "against"):
        assert words in seen
    seen = browse(f"{url}&view=/runs/{trained}", tmp_path)
    for words in ("Rerun from the beginning", "Resume from here"):
        assert words in seen
    seen = browse(f"{url}&view=/lineage/digits-net/2", tmp_path)
    for words in ("Comes from", "digits-set:v1", "maker", "Led to", "digits-net-on-digits-set:v2"):
        assert words in seen


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_a_click_runs_a_job_again_and_leads_to_its_run(
    cli_platform: Platform, client: Client, tmp_path: Path
) -> None:
    save = "import cairn; cairn.init(strict=True); cairn.save_checkpoint('state', step=4, wait=True)"
    command = f'echo $lr > state && {sys.executable} -c "{save}"'
    (tmp_path / "again.yaml").write_text(json.dumps({"name": "again", "run": command, "envs": {"lr": "0.1"}}))
    done = cli_platform.cairn("run", "-f", "--json", str(tmp_path / "again.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    uid = str(json.loads(done.stdout)["id"])
    [checkpoint] = client.checkpoints(uid)
    url = cli_platform.cairn("open", "--print").stdout.strip().partition("&view=")[0]
    with page(tmp_path / "profile") as shown:

        def click(words: str) -> None:
            button = f"[...document.querySelectorAll('button')].find((one) => one.textContent === '{words}')"
            shown.wait(f"{button} !== undefined && {button}.offsetParent !== null")
            shown.ask(f"{button}.click()")

        def change(text: str) -> None:
            shown.ask(f"document.querySelector('.again input').value = '{text}'")

        for words, change_to, origin in (
            ("Rerun from the beginning", "0.2", {"kind": "RERUN", "checkpoint": ""}),
            ("Resume from here", "0.3", {"kind": "RESUME", "checkpoint": checkpoint["name"]}),
        ):
            shown.go(f"{url}&view=/runs/{uid}")
            shown.wait("!!document.querySelector('.again')?.offsetParent")
            change(f"rl={change_to}")
            click(words)
            said = "document.querySelector('.again [role=status]').textContent"
            assert shown.wait(said) == "rl: the job has no such variable or param; it has lr"
            change(f"lr={change_to}")
            click(words)
            made = shown.wait(f"!location.hash.includes('{uid}') && location.hash.split('/').pop()")
            shown.wait(f"document.body.innerText.includes('{made}')")
            assert "Not here" not in shown.ask("document.body.innerText")
            job = client.job(made)
            assert job["spec"]["envs"] == {"lr": change_to}
            assert job["origin"] == {"job": f"teams/{client.team}/jobs/{uid}", **origin}
            shown.go("about:blank")
