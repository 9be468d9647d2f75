"""Many processes and threads in one run, and one that goes on in it after its end, on a whole platform."""

from __future__ import annotations

import csv
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cairn._http import ApiError
from cairn._ids import new_uid
from cairn.client import Client
from tests.harness.browser import Page, page
from tests.harness.platform import Platform

RANKS, UPDATES, THREADS = 8, 1_000, 4

RANK = """
import sys, threading
import cairn

uid, rank, ranks, updates, threads = sys.argv[1], *map(int, sys.argv[2:])
run = cairn.init("shared", run=uid, params={f"rank{rank}": rank}, tags=[f"r{rank}"], capture=False)
print("ready", flush=True)
sys.stdin.readline()

def work(first):
    for place in range(first, updates, threads):
        step = place * ranks + rank
        cairn.log({"loss": rank + place / updates, f"rank{rank}/loss": float(place)}, step=step)

several = [threading.Thread(target=work, args=(first,)) for first in range(threads)]
for each in several: each.start()
for each in several: each.join()
cairn.finish(failed=rank == 3, message="of rank 3" if rank == 3 else "", timeout=60)
"""

# As an interpreter is that never had it installed.
WITHOUT_MATPLOTLIB = """
import sys
from importlib.machinery import PathFinder

class Less(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "matplotlib" else super().find_spec(name, path, target)

sys.meta_path[:] = [Less if finder is PathFinder else finder for finder in sys.meta_path]
sys.exit(__import__("cairn._cli.main", fromlist=["main"]).main())
"""


@pytest.fixture(scope="module")
def platform(module_folder: Path) -> Iterator[Platform]:
    platform = Platform(module_folder)
    platform.up()
    yield platform
    platform.down()


@pytest.fixture(scope="module")
def client(platform: Platform) -> Client:
    return platform.client()


@pytest.fixture(scope="module")
def browser(module_folder: Path) -> Iterator[Page]:
    with page(module_folder / "profile") as shown:
        yield shown


def seen(browser: Page, address: str, *words: str) -> str:
    """The page at an address, once all of these are in it."""
    browser.go(address)
    browser.wait(f"{json.dumps(words)}.every((one) => document.body?.outerHTML.includes(one))")
    return str(browser.ask("document.body.outerHTML"))


def wait_until(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not fact():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


def wait_for(client: Client, uid: str, fact: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while True:
        found = {run["uid"]: run for run in client.runs(experiment="shared")}
        if uid in found and fact(run := client.run(uid)):
            return run
        assert time.monotonic() < deadline, f"it did not come true: {found.get(uid)}"
        time.sleep(0.05)


def test_all_that_many_ranks_log_into_one_run_is_there(
    platform: Platform, client: Client, tmp_path: Path
) -> None:
    uid = new_uid()
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, uid, *map(str, (rank, RANKS, UPDATES, THREADS))],
            env=platform.env, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for rank in range(RANKS)
    ]  # fmt: skip
    for rank in ranks:
        assert rank.stdout is not None
        assert rank.stdout.readline() == "ready\n"
    for rank in ranks:
        assert rank.stdin is not None
        rank.stdin.write("go\n")
        rank.stdin.flush()
    for rank in ranks:
        rank.communicate(timeout=120)
        assert rank.returncode == 0
    total = RANKS * UPDATES
    run = wait_for(client, uid, lambda run: run["summary"].get("loss", {}).get("count") == total
                   and bool(run.get("complete")))  # fmt: skip
    history = client.history(uid, ["loss"])
    assert history.step == list(range(total))
    assert history.value == [step % RANKS + step // RANKS / UPDATES for step in range(total)]
    for rank in range(RANKS):
        own = client.history(uid, [f"rank{rank}/loss"])
        assert own.value == [float(place) for place in range(UPDATES)]
    assert run["params"] == {f"rank{rank}": rank for rank in range(RANKS)}
    assert sorted(run["tags"]) == [f"r{rank}" for rank in range(RANKS)]
    wait_for(client, uid, lambda run: (run["state"], run["message"]) == ("FAILED", "of rank 3"))


BEHIND = """
import sys, cairn

run = cairn.init("shared", name="behind", capture=False)
print(run.uid, flush=True)
for step in range(2_000):
    cairn.log({"loss": float(step)})
    if step % 1_000 == 999:
        sys.stdin.readline()
cairn.finish(timeout=60)
"""


def test_a_run_that_reaches_only_the_gateway_is_whole_though_that_is_killed(
    platform: Platform, client: Client, tmp_path: Path
) -> None:
    """The bus's port is closed to it."""
    behind = {**platform.env, "CAIRN_BUS_URL": "nats://127.0.0.1:1"}
    run = subprocess.Popen(
        [sys.executable, "-c", BEHIND], env=behind, cwd=tmp_path, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert run.stdout is not None
    assert run.stdin is not None
    uid = run.stdout.readline().strip()
    for turn in (1, 2):
        wait_for(client, uid, lambda run, turn=turn: (  # type: ignore[misc]
            run["summary"].get("loss", {}).get("count") == turn * 1_000
        ))  # fmt: skip
        pid = platform.pid("gateway")
        run.stdin.write("go on\n")
        run.stdin.flush()
        if turn < 2:
            os.kill(pid, signal.SIGKILL)
    _, told = run.communicate(timeout=120)
    assert (run.returncode, "not sent" in told) == (0, False), told
    assert wait_for(client, uid, lambda run: bool(run["complete"]))["summary"]["loss"]["count"] == 2_000
    assert client.history(uid, ["loss"]).value == [float(step) for step in range(2_000)]


def test_what_was_kept_is_sent_from_where_only_the_gateway_is_reached(
    platform: Platform, client: Client, tmp_path: Path
) -> None:
    code = (
        "import cairn; run = cairn.init('shared', name='kept', capture=False)\n"
        "for step in range(500): cairn.log({'x': step})\n"
        "print(run.uid)"
    )
    alone = {**platform.env, "CAIRN_CONFIG": str(tmp_path / "none")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=alone, cwd=tmp_path, capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    synced = subprocess.run(
        [platform.program, "sync", "."], env={**platform.env, "CAIRN_BUS_URL": "nats://127.0.0.1:1"},
        cwd=tmp_path, capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert synced.returncode == 0, synced.stderr
    wait_for(client, done.stdout.strip(), lambda run: run["summary"].get("x", {}).get("count") == 500)


def test_a_process_elsewhere_goes_on_behind_what_the_server_knows(
    platform: Platform, client: Client, tmp_path: Path
) -> None:
    def goes_on(folder: str, how: str, value: float) -> str:
        (tmp_path / folder).mkdir()
        code = (
            f"import cairn; run = cairn.init({how}, capture=False)\n"
            f"for _ in range(5): cairn.log({{'x': {value}}})\n"
            "cairn.finish(timeout=60); print(run.uid)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env=platform.env, cwd=tmp_path / folder, capture_output=True,
            text=True, timeout=60, check=True,
        )  # fmt: skip
        assert done.stderr == ""
        return done.stdout.strip()

    uid = goes_on("first", "'shared', name='long'", 1.0)
    wait_for(client, uid, lambda run: run["summary"].get("x", {}).get("count") == 5 and bool(run["complete"]))
    assert goes_on("second", f"run={uid!r}", 2.0) == uid
    run = wait_for(
        client, uid, lambda run: run["summary"]["x"]["count"] == 10 and run["state"] == "SUCCEEDED"
    )
    assert (run["display_name"], run["experiment"]) == ("long", "teams/main/experiments/shared")
    assert client.history(uid, ["x"]).value == [1.0] * 5 + [2.0] * 5


def test_notes_groups_and_axes_are_kept_found_and_drawn(
    platform: Platform, client: Client, browser: Page, tmp_path: Path
) -> None:
    code = (
        "import cairn\n"
        "run = cairn.init('shared', name='noted', group='night \\'x\\'', notes='first')\n"
        "cairn.define_metric('val/*', step_metric='epoch')\n"
        "run.notes = 'diverges at 3'\n"
        "for n in range(4): cairn.log({'epoch': n / 2, 'val/loss': 1.0 - n, 'loss': n}, step=n * 100)\n"
        "cairn.finish(timeout=60); print(run.uid)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=platform.env, cwd=tmp_path, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    uid = done.stdout.strip()
    run = wait_for(client, uid, lambda run: bool(run["complete"]))
    assert (run["group"], run["notes"], run["axes"]) == ("night 'x'", "diverges at 3", {"val/*": "epoch"})

    drawn = platform.says("metrics", uid, "val/loss").stdout
    assert "val/loss over epoch" in drawn
    assert "300" not in drawn.splitlines()[-2], "the axis has epochs"
    assert "over epoch" not in platform.says("metrics", uid, "loss").stdout
    assert "val/loss over epoch" in platform.says("compare", uid, "-m", "val/loss").stdout
    picture = tmp_path / "out.png"
    both = platform.says("compare", uid, "-m", "val/loss", "-m", "loss", "--png", str(picture))
    assert both.returncode == 0, both.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    width, height = struct.unpack(">II", picture.read_bytes()[16:24])
    assert (width, height) == (1350, 1200), "a panel for each metric"
    nothing = platform.says("compare", uid, "-m", "nosuch", "--png", str(tmp_path / "no.png"))
    assert (nothing.returncode, (tmp_path / "no.png").exists()) == (3, False)
    nowhere = platform.says("compare", uid, "--png", str(tmp_path / "none" / "out.png"))
    assert nowhere.returncode == 1
    assert "cannot be written" in nowhere.stderr
    without = subprocess.run(
        [sys.executable, "-c", WITHOUT_MATPLOTLIB, "compare", uid, "--png", "x.png"],
        env=platform.env, cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert without.returncode == 1
    assert "cairn-sdk[plot]" in without.stderr

    def found(expression: str, *options: str) -> list[str]:
        said = platform.says("ls", expression, "--json", *options)
        assert said.returncode == 0, said.stderr
        return [record["id"] for record in json.loads(said.stdout)]

    assert found("group = \"night 'x'\" and notes =~ 'diverge'") == [uid]
    assert found("group = 'night'") == []
    # A state of jobs, which no run has.
    assert found("notes =~ 'diverge'", "--state", "held") == []
    assert platform.says("ls", "nonsense = 1").returncode != 0
    changed = ("--notes", "fixed", "--group", "day", "-t", "good", "--name", "better")
    edited = platform.says("edit", uid, *changed)
    assert edited.returncode == 0, edited.stderr
    assert "fixed" in edited.stdout
    assert found("group = 'day' and notes = 'fixed' and \"good\" in tags and name = 'better'") == [uid]
    assert "fixed" in platform.says("show", uid).stdout
    address = platform.says("open", "--print", uid).stdout.strip()
    seen(browser, address, 'title="over epoch"', ">fixed<", ">day<")
    seen(browser, address.replace("/runs/", "/compare?runs="), 'title="over epoch"')
    assert platform.says("edit", uid, "--untag", "good", "--notes", "").returncode == 0
    assert (client.run(uid)["tags"], client.run(uid)["notes"]) == ([], "")
    assert platform.says("edit", uid).returncode == 2
    with pytest.raises(ApiError, match="16,000"):
        client.update_run(uid, notes="x" * 16_001)


LOOKS = """
import sys, cairn
import numpy as np

run = cairn.init("looks", run=sys.argv[1], capture=False)
noise = np.random.default_rng(1).integers(0, 255, (80, 120, 3), dtype=np.uint8)
for step in range(3):
    cairn.log({"weights": cairn.Histogram(noise[step]), "loss": 1.0}, step=step)
    cairn.log_image("train/sample", noise, caption="<b>noise</b>", step=step)
cairn.log_table("pairs", [("<script>alert(1)</script>", 1.5)], ["text", "number"], step=2)
large = np.random.default_rng(2).integers(0, 255, (1000, 1000, 3), dtype=np.uint8)
cairn.log_image("../large", large, step=2)
cairn.finish(timeout=60)
"""


def test_what_a_run_shows_is_seen_saved_exported_and_sent_later(
    platform: Platform, browser: Page, tmp_path: Path
) -> None:
    uid = new_uid()
    alone = {key: value for key, value in platform.env.items() if key != "CAIRN_CONFIG"}
    alone["CAIRN_CONFIG"] = str(tmp_path / "none.json")
    done = subprocess.run(
        [sys.executable, "-c", LOOKS, uid],
        env=alone,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert list(tmp_path.glob(".cairn/runs/*/media/*"))
    assert platform.says("sync", str(tmp_path)).returncode == 0
    assert not list(tmp_path.glob(".cairn/runs/*/media/*"))

    def there() -> bool:
        return platform.says("media", uid).stdout.count("\n") >= 5

    wait_until(there)
    listed = platform.says("media", uid).stdout
    for words in ("image 120 x 80 png", "table of 1 rows", "histogram", "../large", "train/sample"):
        assert words in listed
    assert "█" in platform.says("media", uid, "weights", "--step", "1").stdout
    assert "<script>alert(1)</script>" in platform.says("media", uid, "pairs").stdout
    told = json.loads(platform.says("media", uid, "pairs", "--json").stdout)
    assert told[0]["items"][0]["value"]["rows"] == [["<script>alert(1)</script>", 1.5]]
    assert platform.says("media", uid, "nothing").returncode == 3
    saved = json.loads(platform.says("media", uid, "--out", str(tmp_path / "out"), "--json").stdout)
    assert len(saved) == 8
    assert all(Path(path).is_relative_to(tmp_path / "out") and Path(path).stat().st_size for path in saved)
    assert (tmp_path / "out" / "train%2Fsample" / "2-0.png").read_bytes()[:4] == b"\x89PNG"
    done = platform.says("export", "looks", str(tmp_path / "export"), "--format", "csv")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "export" / "media.csv").read_text().splitlines()))
    assert len(rows) == 8
    assert all((tmp_path / "export" / row["file"]).stat().st_size == int(row["size"]) for row in rows)
    shown = seen(
        browser, platform.says("open", "--print", uid).stdout.strip(), '<img src="blob:', "Open (2.",
        "&lt;b&gt;noise&lt;/b&gt;", "&lt;script&gt;alert(1)", "over 3 steps",
    )  # fmt: skip
    assert shown.count('<img src="blob:') == 1  # the large one is a link


def test_what_a_job_shows_before_it_is_killed_is_sent_by_its_runner(
    platform: Platform, browser: Page, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "job.py").write_text(
        "import os, pathlib, cairn, numpy as np\n"
        "from cairn._segments import media_folder\n"
        "cairn.log_image('large', np.random.default_rng(3).integers(0, 255, (300, 300, 3), dtype=np.uint8))\n"
        "cairn.log({'loss': float('nan')})\n"
        # No server takes so much for an image; it holds up nothing.
        "folder = media_folder(pathlib.Path(os.environ['CAIRN_SPOOL']))\n"
        "with open(folder / ('f' * 64), 'wb') as file: file.truncate(3 << 30)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = platform.cairn(
        "run", "--json", "-f", "--name", "killed", "--", sys.executable, "job.py", cwd=tmp_path / "work"
    )
    uid = json.loads(done.stdout)["id"]
    wait_until(lambda: platform.says("media", uid, "--out", str(tmp_path / "out")).returncode == 0)
    assert (tmp_path / "out" / "large" / "0-0.png").stat().st_size > 200_000
    wait_until(lambda: "points were lost" in platform.says("metrics", uid).stdout)
    assert "NAN/INF" in platform.says("metrics", uid, "loss").stdout
    assert "points were lost" in platform.says("show", uid).stdout
    address = platform.says("open", "--print", uid).stdout.strip()
    seen(browser, address, "points were lost where they were logged")
