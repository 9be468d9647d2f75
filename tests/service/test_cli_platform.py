"""The command line and the SDK's transfers against the whole platform."""

from __future__ import annotations

import csv
import html
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cairn._blobs import TransferError
from cairn._http import ApiError
from cairn._ids import new_uid
from cairn._transfer import PART
from cairn.client import Client
from tests.harness.browser import browse
from tests.harness.platform import Platform

TRAIN = """
import os, sys
import cairn

checkpoint = cairn.latest_checkpoint()
first = checkpoint.step + 1 if checkpoint else 0
print("begins at", first, checkpoint.metrics if checkpoint else "")
if checkpoint:
    assert checkpoint.path.read_text() == f"weights {checkpoint.step}"
for step in range(first, 10):
    cairn.log({"loss": 1 / (step + 1), "acc": step / 10}, step=step)
    print(f"step {step} \\x1b[32mgreen\\x1b[0m \\x1b]0;title\\x07")
    if step in (3, 9):
        open("weights.txt", "w").write(f"weights {step}")
        cairn.save_checkpoint("weights.txt", step=step, metrics={"acc": step / 10}, wait=True)
        open("weights.txt", "w").write("torn")  # what was saved is a copy
    if step == 5 and first == 0:
        os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module")
def platform(cli_platform: Platform) -> Platform:
    return cli_platform


@pytest.fixture(scope="module")
def client(cli_platform: Platform) -> Client:
    return cli_platform.client()


@pytest.fixture(scope="module")
def finished(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A job that was killed once and went on from its checkpoint, followed to its end."""
    work = tmp_path_factory.mktemp("work")
    (work / "train.py").write_text(TRAIN)
    done = platform.cairn(
        "run", "-f", "--json", "--name", "twice", "-e", "resumes",
        "--", sys.executable, "train.py", "--lr", "3e-4", cwd=work,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "begins at 0" in done.stderr
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def read(platform: Platform, *arguments: str) -> Any:
    done = platform.cairn(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_killed_job_goes_on_from_its_checkpoint_and_its_page_says_so(
    platform: Platform, finished: dict[str, Any]
) -> None:
    assert (finished["state"], finished["attempts"], finished["name"]) == ("SUCCEEDED", 2, "twice")
    page = read(platform, "show", finished["id"][:14])
    assert page["run"]["attempts"][1]["resumed_step"] == 3
    assert [version["step"] for version in page["checkpoints"]] == [9, 3]
    loss = next(series for series in page["series"] if series["key"] == "loss")
    assert loss["steps"] == list(range(10))
    assert "--lr 3e-4" in page["job"]["spec"]["run"]
    told = platform.cairn("show", "twice").stdout
    row = next(line for line in told.splitlines() if line.startswith("loss "))
    assert row.split()[-1] == "9", "the last step, not the first of the last bucket"
    for words in ("attempt 2", "from the checkpoint at step 3", "infra", "Checkpoints (2)", "--lr 3e-4"):
        assert words in told


def test_logs_are_whole_and_clean(platform: Platform, finished: dict[str, Any]) -> None:
    followed = platform.cairn("logs", "-f", "twice")
    assert followed.returncode == 0
    lines = followed.stdout.splitlines()
    begins = [line for line in lines if line.startswith("begins")]
    assert begins == ["begins at 0 ", "begins at 4 {'acc': 0.3}"]
    assert lines.count("step 4 green ") == 2  # once an attempt, without escapes as this is no terminal
    assert "\x1b" not in followed.stdout
    second = platform.cairn("logs", "twice", "--attempt", "2").stdout
    assert "begins at 4" in second
    assert "begins at 0" not in second
    assert len(platform.cairn("logs", "twice", "--tail", "3").stdout.splitlines()) == 3
    found = platform.cairn("logs", "twice", "--grep", "^step [45]", "--stream", "stdout").stdout.splitlines()
    assert [line.split()[1] for line in found] == ["4", "5", "4", "5"]
    late = platform.cairn("logs", "twice", "--since", "2999-01-01T00:00:00Z")
    assert (late.returncode, late.stdout) == (0, "")
    assert "step 9" in platform.cairn("logs", "twice", "--since", "1d").stdout
    assert platform.cairn("logs", "twice", "--since", "lately").returncode == 2
    torn = platform.cairn("logs", "twice", "--grep", "(")
    assert (torn.returncode, "no regular expression" in torn.stderr) == (2, True)
    objects = [json.loads(line) for line in platform.cairn("logs", "twice", "--json").stdout.splitlines()]
    written = [each["text"] for each in objects if each["stream"] == "stdout"]
    assert written[1] == "step 0 \x1b[32mgreen\x1b[0m \x1b]0;title\x07"  # the record itself is untouched


def test_ls_and_compare_have_the_run(platform: Platform, finished: dict[str, Any]) -> None:
    listed = read(platform, "ls", "-e", "resumes", "--state", "succeeded")
    assert [(each["id"], each["metrics"]["acc"]) for each in listed] == [(finished["id"], 0.9)]
    assert read(platform, "ls", "--alive") == []
    assert "twice" in platform.cairn("ls").stdout
    compared = read(platform, "compare", "-e", "resumes")
    assert compared["rows"][0]["metrics"]["loss"]["best"] == 0.1
    drawn = platform.cairn("compare", "twice", "-m", "loss")
    assert drawn.returncode == 0
    assert "└" in drawn.stdout


def test_metrics_are_shown_drawn_and_read_point_by_point(
    platform: Platform, client: Client, finished: dict[str, Any]
) -> None:
    shown = platform.cairn("metrics", "twice").stdout
    assert next(line for line in shown.splitlines() if line.startswith("acc")).split()[1:6] == [
        "0.9", "9", "0", "0.9", "10"
    ]  # fmt: skip
    assert "└" in platform.cairn("metrics", "twice", "loss").stdout
    rows = list(csv.DictReader(platform.cairn("metrics", "twice", "acc", "--csv").stdout.splitlines()))
    assert [(row["key"], int(row["step"]), float(row["value"])) for row in rows] == [
        ("acc", step, step / 10) for step in range(10)
    ]
    assert [row["value"] for row in read(platform, "metrics", "twice", "acc")] == [n / 10 for n in range(10)]
    assert set(read(platform, "metrics", "twice")) == {"acc", "loss"}
    assert platform.cairn("metrics", "twice", "nosuch").returncode == 3
    frame = client.history(finished["id"], ["loss"]).to_pandas()
    assert list(frame["value"]) == [1 / (step + 1) for step in range(10)]
    runs = client.runs(experiment="resumes").to_pandas()
    assert (runs["name"][0], runs["metrics.acc"][0]) == ("twice", 0.9)


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_an_experiment_is_exported_whole(
    platform: Platform, finished: dict[str, Any], tmp_path: Path, form: str
) -> None:
    pandas = pytest.importorskip("pandas")
    told = read(platform, "export", "resumes", str(tmp_path / "out"), "--format", form)

    def load(name: str) -> Any:
        path = tmp_path / "out" / f"{name}.{form}"
        return pandas.read_parquet(path) if form == "parquet" else pandas.read_csv(path)

    runs = load("runs")
    points, lines = load(f"points/{finished['id']}"), load(f"lines/{finished['id']}")
    assert (list(runs["uid"]), runs["name"][0]) == ([finished["id"]], "twice")
    assert json.loads(runs["summary"][0])["acc"]["last"] == 0.9
    loss = points[points["key"] == "loss"]
    assert list(loss["step"]) == list(range(10))
    assert list(loss["value"]) == [1 / (step + 1) for step in range(10)]
    assert sum(text.startswith("begins at") for text in lines["text"]) == 2
    assert told == {
        "folder": str(tmp_path / "out"), "format": form, "runs": 1, "points": len(points),
        "lines": len(lines), "media": 0,
    }  # fmt: skip
    assert not list((tmp_path / "out").rglob(".*")), "nothing half written is left"
    assert platform.cairn("export", "nosuch", str(tmp_path / "none")).returncode == 3


def test_a_finished_job_goes_on_from_an_earlier_checkpoint_in_a_run_of_its_own(
    platform: Platform, finished: dict[str, Any]
) -> None:
    assert read(platform, "checkpoints", "twice")["restart"].endswith("/versions/2")
    told = platform.cairn("checkpoints", finished["id"]).stdout.splitlines()
    assert [line.split()[1] for line in told if line.endswith("a restart goes on here")] == ["9"]
    assert platform.cairn("resume", finished["id"], "--set", "lr=1").returncode == 2, "it has no such param"
    assert platform.cairn("resume", finished["id"], "--checkpoint", "5").returncode == 3
    done = platform.cairn("resume", finished["id"], "--checkpoint", "3", "-n", "resumed", "-f", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "begins at 4 {'acc': 0.3}" in done.stderr
    page = read(platform, "show", "resumed")
    origin = page["run"]["origin"]
    assert (origin["kind"], origin["run"].rsplit("/", 1)[1], origin["step"]) == ("RESUME", finished["id"], 3)
    assert [version["step"] for version in page["checkpoints"]] == [9]
    assert f"resumed from {finished['id']} at step 3" in platform.cairn("show", "resumed").stdout


def test_runs_that_met_no_server_are_sent_afterwards(
    platform: Platform, client: Client, tmp_path: Path
) -> None:
    code = (
        "import cairn; run = cairn.init('offline'); [cairn.log({'x': n}) for n in range(5)]; print(run.uid)"
    )
    alone = {**platform.env, "CAIRN_CONFIG": str(tmp_path / "none.json")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=alone,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    uid = done.stdout.strip()
    assert read(platform, "sync", str(tmp_path)) == {uid: True}
    assert read(platform, "sync", str(tmp_path)) == {}
    deadline = time.monotonic() + 60
    while uid not in {run["uid"] for run in client.runs(experiment="offline") if run.get("complete")}:
        assert time.monotonic() < deadline, "the run never arrived"
        time.sleep(0.1)
    assert client.history(uid).value == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_a_sweep_is_queued_followed_and_told_apart(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(
        "name: grid\nenvs: {lr: '1'}\nrun: test $lr != 3\n"
        "cairn: {experiment: grid, sweep: {parameters: {lr: [1, 2, 3]}}}\n"
    )
    assert platform.cairn("run", "--dry-run", str(tmp_path / "task.yaml")).stdout.count("good") == 3
    assert read(platform, "ls", "-e", "grid") == []
    done = platform.cairn("run", str(tmp_path / "task.yaml"), "-f", "--json")
    records = json.loads(done.stdout)
    assert done.returncode == 1, "one of them fails"
    states = {str(each["params"]["lr"]): each["state"] for each in records}
    assert states == {"1": "SUCCEEDED", "2": "SUCCEEDED", "3": "FAILED"}
    ambiguous = platform.cairn("show", "grid")
    assert ambiguous.returncode == 2
    assert ambiguous.stderr.count("grid") == 4


def test_a_job_is_stopped_by_name_and_twice_is_no_error(platform: Platform, tmp_path: Path) -> None:
    done = platform.cairn("run", "--json", "--name", "sleeper", "--", "sleep", "300", cwd=tmp_path)
    queued = json.loads(done.stdout)
    for _ in range(2):
        assert platform.cairn("stop", "sleeper").returncode == 0
    watched = platform.cairn("watch", "sleeper", "--json")
    assert json.loads(watched.stdout)["state"] == "CANCELLED"
    assert watched.returncode == 1
    assert queued["display_name"] == "sleeper"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("show", "01zzzzzzzzzzzzzzzzzzzzzzzz"), 3, "there is no job or run"),
        (("logs", "nosuch"), 3, "`cairn ls` lists"),
        (("run", "nosuch.yaml"), 2, "there is no task file nosuch.yaml"),
        (("run", "python", "train.py"), 2, "cairn run -- python ..."),
        (("run",), 2, "give a task file, or a command"),
        (("artifacts", "get", "nosuch:best"), 3, "nosuch"),
        (("ls", "--team", "nobodys"), 3, "nobodys"),
        (("nosuch",), 2, "No such command"),
    ],
)
def test_errors_are_one_line_with_a_code(
    platform: Platform, arguments: tuple[str, ...], code: int, told: str
) -> None:
    done = platform.cairn(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_task_with_an_unknown_field_is_refused_with_its_path(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("run: echo\nresources: {cpu: 2}\n")
    done = platform.cairn("run", str(tmp_path / "bad.yaml"))
    assert done.returncode == 2
    assert "resources.cpu" in done.stderr
    (tmp_path / "torn.yaml").write_text("run: [1\n")
    assert "torn.yaml:2:1" in platform.cairn("run", str(tmp_path / "torn.yaml")).stderr


def test_login_keeps_a_token_that_works_and_no_other(platform: Platform, tmp_path: Path) -> None:
    made = read(platform, "token", "create", "laptop", "--ttl", "1h")
    own = Platform(tmp_path)
    own.env["CAIRN_CONFIG"] = str(tmp_path / "own.json")
    url = platform.status()["url"]

    def login(secret: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [own.program, "login", url], env=own.env, input=secret, capture_output=True, text=True, timeout=60
        )

    assert own.cairn("ls").returncode == 4  # no server is known yet
    assert login("wrong\n").returncode == 4
    assert login(made["secret"] + "\n").returncode == 0
    assert os.stat(tmp_path / "own.json").st_mode & 0o777 == 0o600
    assert own.cairn("ls").returncode == 0
    assert platform.cairn("token", "revoke", made["token"]["uid"]).returncode == 0


def test_files_come_back_as_they_were(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "empty").mkdir(parents=True)
    (folder / "big.bin").write_bytes(os.urandom(PART) * 2 + os.urandom(1234567))
    (folder / "empty" / "nothing").touch()
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"file {number}")
    said: list[tuple[int, int]] = []
    first = client.publish(folder, "model-a", kind="model", progress=lambda *at: said.append(at))
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert said[-1] == (total, total)
    assert [done for done, _ in said] == sorted(done for done, _ in said)

    client.download("model-a", "latest", tmp_path / "back")
    for path in (path for path in folder.rglob("*") if path.is_file()):
        assert (tmp_path / "back" / path.relative_to(folder)).read_bytes() == path.read_bytes()

    (folder / "1.txt").write_text("changed")
    second = client.publish(folder, "model-a", kind="model", aliases=["best"])
    assert (first["version"], second["version"]) == (1, 2)
    (tmp_path / "back" / "0.txt").write_text("spoiled")
    version = client.download("model-a", "best", tmp_path / "back")
    assert version["version"] == 2
    assert (tmp_path / "back/1.txt").read_text() == "changed"
    assert (tmp_path / "back/0.txt").read_text() == "file 0"


def test_a_job_in_an_environment_of_its_own(platform: Platform, client: Client, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import importlib.util as u\nassert not u.find_spec('grpc')\n" + TRAIN)
    (tmp_path / "requirements.txt").write_text("# nothing but what every environment has\n")
    command = ["run", "-f", "--json", "--name", "apart", "-r", "requirements.txt", "--", "python", "train.py"]
    done = platform.cairn(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(done.stdout)
    assert (record["state"], record["attempts"]) == ("SUCCEEDED", 2), (
        "it goes on without the platform's packages"
    )
    assert "begins at 4" in done.stderr
    assert "built in" in done.stderr
    assert "ready in" in done.stderr
    job, run = client.job(record["id"]), client.run(record["id"])
    assert job["spec"]["environment"]["requirements_file"] == "requirements.txt"
    digest = run["environment"]["environment"].split()[0]
    assert (platform.data / "scheduler" / "environments" / digest).is_dir()

    (tmp_path / "requirements.txt").write_text("no-such-package-at-all==1\n")
    failed = platform.cairn(*command[:-3], "--env", "PIP_NO_INDEX=1", *command[-3:], cwd=tmp_path)
    assert failed.returncode == 1
    [attempt] = client.job(json.loads(failed.stdout)["id"])["attempts"]
    assert attempt["cause"] == "CAUSE_USER_ERROR"
    assert "There is no package `no-such-package-at-all==1`" in attempt["message"]
    gone = platform.cairn("run", "-r", "gone.txt", "--", "python", "train.py", cwd=tmp_path)
    assert gone.returncode == 2
    assert "cairn.env.requirements: there is no file gone.txt" in gone.stderr


def test_a_version_is_put_held_and_deleted(platform: Platform, tmp_path: Path) -> None:
    source = tmp_path / "weights.bin"
    source.write_bytes(new_uid().encode())
    made = read(platform, "artifacts", "put", str(source), "kept", "-k", "model", "--alias", "best")
    assert (made["version"], made["kind"], made["aliases"]) == (1, "ARTIFACT_KIND_MODEL", ["best", "latest"])
    source.write_bytes(new_uid().encode())
    assert "kept:v2" in platform.cairn("artifacts", "put", str(source), "kept").stdout
    refused = platform.cairn("artifacts", "rm", "kept:v1")
    assert refused.returncode == 1
    assert "held by alias best" in refused.stderr
    assert platform.cairn("artifacts", "alias", "kept:v2", "best").returncode == 0
    assert platform.cairn("artifacts", "pin", "kept:v1").returncode == 0
    assert "held by a pin" in platform.cairn("artifacts", "rm", "kept:v1").stderr
    assert platform.cairn("artifacts", "unpin", "kept:v1").returncode == 0
    assert platform.cairn("artifacts", "rm", "kept:v1").returncode == 0
    assert platform.cairn("artifacts", "rm", "kept:v1").returncode == 3
    assert platform.cairn("artifacts", "rm", "kept").returncode == 2
    assert platform.cairn("artifacts", "alias", "kept:v2", "best", "--remove").returncode == 0
    moves = read(platform, "artifacts", "alias", "kept")
    assert [(each["alias"], each.get("version", 0)) for each in moves] == [
        ("best", 0),
        ("best", 2),
        ("best", 1),
    ]


def test_bytes_that_rotted_in_the_store_are_refused(
    platform: Platform, client: Client, tmp_path: Path
) -> None:
    source = tmp_path / "data.bin"
    source.write_bytes(new_uid().encode() * 100)
    version = client.publish(source, "rots")
    digest = version["entries"][0]["parts"][0]["digest"]
    blob = next((platform.data / "s3").rglob(digest))
    raw = bytearray(blob.read_bytes())
    raw[7] ^= 1
    blob.write_bytes(raw)
    with pytest.raises(TransferError, match="not those of blob"):
        client.download("rots", 1, tmp_path / "got")
    assert list((tmp_path / "got").iterdir()) == []
    done = platform.cairn("artifacts", "get", "rots", "-o", str(tmp_path / "got"))
    assert done.returncode == 1
    assert "they were not used" in done.stderr


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_open_leads_a_browser_to_the_run_and_what_runs_say_is_text(
    platform: Platform, finished: dict[str, Any], tmp_path: Path
) -> None:
    hostile = "<img src=x onerror=document.title='owned'>"
    done = platform.cairn("run", "-f", "--name", hostile, "--", "echo", hostile, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    page = browse(platform.cairn("open", "--print").stdout.strip(), tmp_path)
    assert "twice" in page
    assert html.escape(hostile, quote=False) in page
    page = browse(platform.cairn("open", "--print", finished["id"]).stdout.strip(), tmp_path)
    for words in ("went on from step 3", "Rank 0 was killed", "step 9", "lr"):
        assert words in page
    assert "owned" not in page
    assert "#token" not in page


def test_a_task_brings_its_files_and_secrets_and_shows_no_secret(
    platform: Platform, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("data of mine")
    (tmp_path / "conf.json").write_text('{"x": 1}')
    (tmp_path / "task.yaml").write_text(
        "name: brings\nsecrets: {TOKEN_OF_MINE: null}\nresources: {cpus: 1, use_spot: true, disk_size: 100}\n"
        "file_mounts: {in/data: ./data, conf.json: ./conf.json}\n"
        "run: |\n  cat in/data/a.txt; echo; cat conf.json; echo; echo token $TOKEN_OF_MINE\n"
        "  python -c 'import cairn; cairn.init()' $TOKEN_OF_MINE\n"
    )
    (tmp_path / "t.env").write_text("TOKEN_OF_MINE=sesame-open-42\n")
    done = platform.cairn("run", "task.yaml", "--secret-file", "t.env", "-f", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if not line.startswith("·")] == [
        "data of mine", '{"x": 1}', "token ********",
    ]  # fmt: skip
    shown = platform.cairn("show", "--json").stdout
    assert "********" in json.loads(shown)["run"]["command"]
    assert "sesame-open-42" not in shown + done.stdout + done.stderr
    logs = "".join(path.read_text() for path in (platform.data / "logs").glob("*.log"))
    assert "sesame-open-42" not in logs
    # A value of a wrong kind is not told back.
    with pytest.raises(ApiError) as refused:
        client.submit("run: x", secrets={"A": {"sesame-open-42": 1}})  # type: ignore[dict-item]
    assert refused.value.status == 400
    assert "sesame-open-42" not in str(refused.value)


def test_what_lies_in_the_store_is_counted_checked_and_ruled_by_commands(
    platform: Platform, tmp_path: Path
) -> None:
    (tmp_path / "weights").write_bytes(os.urandom(3_000))
    read(platform, "artifacts", "put", str(tmp_path), "sound", "-k", "model")
    assert "is sound" in platform.cairn("artifacts", "verify", "sound").stdout
    assert "sound:v1" in platform.cairn("artifacts", "show", "sound:latest").stdout
    digest = read(platform, "artifacts", "show", "sound")["entries"][0]["digest"]
    (blob,) = platform.data.glob(f"**/{digest}")
    blob.write_bytes(b"rotten")
    verified = platform.cairn("artifacts", "verify", "sound")
    assert (verified.returncode, "weights: its bytes are not what they were" in verified.stdout) == (1, True)
    assert "rotten" in platform.cairn("artifacts", "show", "sound").stdout
    assert platform.cairn("artifacts", "get", "sound", "-o", str(tmp_path / "back")).returncode == 1
    assert read(platform, "storage", "usage", "--by", "user")["total"]["versions"] >= 1
    assert "model" in platform.cairn("storage", "usage").stdout
    assert "0 blobs, 0 B would be deleted" in platform.cairn("gc", "--dry-run").stdout
    assert read(platform, "gc")["blobs"] == 0
    rule = ("-k", "model", "-e", "nowhere", "--keep-last", "2", "--keep-for", "30d")
    assert platform.cairn("retention", "set", *rule, "--dry-run").returncode == 0
    assert read(platform, "retention", "ls") == []
    assert "the last 2, those younger than 30d" in platform.cairn("retention", "set", *rule).stdout
    assert "nothing goes" in platform.cairn("retention", "preview").stderr
    assert platform.cairn("artifacts", "protect", "gold").stdout == "gold, production\n"
    assert platform.cairn("artifacts", "protect", "gold", "--remove").stdout == "production\n"
    assert [each["keep_last"] for each in read(platform, "retention", "ls")] == [2]
    assert platform.cairn("retention", "rm", "-k", "model", "-e", "nowhere").returncode == 0
    assert platform.cairn("retention", "rm", "-k", "model").returncode == 1
    points = ("-k", "points", "--keep-for", "90d")
    assert "nothing goes" in platform.cairn("retention", "set", *points, "--dry-run").stderr
    assert "for 90d after a run was over" in platform.cairn("retention", "set", *points).stdout
    assert [each["record"] for each in read(platform, "retention", "ls")] == ["RECORD_POINTS"]
    assert platform.cairn("retention", "set", "-k", "lines", "--keep-last", "3").returncode == 2
    assert platform.cairn("retention", "rm", "-k", "points").returncode == 0
