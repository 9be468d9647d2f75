"""Where jobs can run, on a real Slurm by the real SkyPilot: what is there, what is wrong, and no room.

Beside the cluster that works the operator has one whose login node does not listen, and one with a wrong key.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cairn_server import ports
from tests.harness.platform import Platform
from tests.harness.slurm import Slurm

pytestmark = pytest.mark.timeout(1200)

FINAL = {"SUCCEEDED", "FAILED", "CANCELLED", "TIMED_OUT"}
# SkyPilot would ask for more memory than a node has.
ALL_GPUS = ("--infra", "slurm/lab", "--gpus", "H100:8", "--cpus", "2", "--memory", "2")


@pytest.fixture(scope="module")
def platform(slurm_cluster: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("infra")
    home = folder / "home"
    env = slurm_cluster.equip(folder / "data", configured=False)
    _operator(home, Path(env["HOME"]), dead=ports.free(["dead"])["dead"])
    made = Platform(
        folder, CAIRN_LOCAL_CPUS="2", CAIRN_SKYPILOT_PROVISION_SECONDS="15", **{**env, "HOME": str(home)}
    )
    try:
        made.up("--skypilot")
        yield made
    finally:
        made.down()


def _operator(home: Path, theirs: Path, *, dead: int) -> None:
    """A home like that of the operator of the cluster, with two broken ones beside it."""
    (home / ".slurm").mkdir(parents=True)
    (home / ".sky").mkdir()
    (home / ".sky" / "catalogs").symlink_to(theirs / ".sky" / "catalogs")
    good = (theirs / ".slurm" / "config").read_text()
    key = home / "wrong"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    noport = re.sub(r"Port \d+", f"Port {dead}", good.replace("Host lab", "Host noport"))
    # Another user, so that no connection that is open already is used.
    nokey = re.sub(r"IdentityFile \S+", f"IdentityFile {key}", good.replace("Host lab", "Host nokey"))
    nokey = re.sub(r"User \S+", "User root", nokey)
    config = home / ".slurm" / "config"
    config.write_text("\n".join([good, noport, nokey]))
    slurm = {
        "allowed_clusters": ["lab", "noport", "nokey"],
        "pricing": {"cpu": 0.04, "memory": 0.004, "accelerators": {"H100": 3.0, "A100": 1.5}},
        "cluster_configs": {"lab": {"tmpdir": str(theirs.parent / "run" / "tmp")}},
    }
    # JSON is YAML.
    (home / ".sky" / "config.yaml").write_text(json.dumps({"slurm": slurm, "rbac": {"default_role": "user"}}))


def cairn(platform: Platform, *arguments: str, rc: int = 0) -> Any:
    done = platform.cairn(arguments[0], "--json", *arguments[1:], timeout=300)
    assert done.returncode == rc, done.stdout + done.stderr
    return json.loads(done.stdout) if done.stdout.strip() else done.stderr


def until(what: Callable[[], Any], *, timeout: float) -> Any:
    end = time.monotonic() + timeout
    while not (found := what()):
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.5)
    return found


def ended(platform: Platform, uid: str, *, timeout: float = 180) -> dict[str, Any]:
    client = platform.client()
    until(lambda: client.job(uid)["state"] in FINAL, timeout=timeout)
    return client.job(uid)


def skypilot(platform: Platform, path: str, **body: Any) -> Any:
    """The answer of the platform's SkyPilot, asked past the platform."""
    listening = {one["name"]: one["port"] for one in platform.status()["processes"]}
    base = f"http://127.0.0.1:{listening['skypilot']}"
    who = {"env_vars": {"SKYPILOT_USER_ID": "0badcafe", "SKYPILOT_USER": "test"}}
    with httpx.Client(base_url=base, trust_env=False, timeout=60) as http:
        request = http.post(path, json={**who, **body}).headers["X-SkyPilot-Request-ID"]
        answer = http.get("/api/get", params={"request_id": request}).json()
        return json.loads(answer["return_value"])


def test_what_is_there_is_shown_with_gpus_and_prices_and_what_is_wrong_with_its_remedy(
    platform: Platform,
) -> None:
    found = cairn(platform, "check", rc=1)
    assert found["complete"]
    infras = {one["name"].removeprefix("infras/"): one for one in found["infras"]}
    assert infras["local"]["state"] == "ENABLED"
    lab = infras["slurm/lab"]
    assert (lab["state"], lab["nodes"]) == ("ENABLED", 4)
    gpus = {one["kind"]: one for one in lab["accelerators"]}
    assert (gpus["H100"]["total"], gpus["H100"]["price"], gpus["H100"]["counts"]) == (16, 3.0, [1, 2, 4, 8])
    assert (gpus["A100"]["total"], gpus["A100"]["price"]) == (4, 1.5)
    assert infras["slurm/noport"]["state"] == "UNREACHABLE"
    assert "does not answer" in infras["slurm/noport"]["problem"]
    assert "`Host noport`" in infras["slurm/noport"]["remedy"]
    assert infras["slurm/nokey"]["state"] == "UNREACHABLE"
    assert "key" in infras["slurm/nokey"]["problem"]
    assert infras["aws"]["state"] == "DISABLED"
    assert "CAIRN_SKYPILOT_EXTRAS" in infras["aws"]["remedy"]
    cairn(platform, "check", "slurm/lab")
    cairn(platform, "check", "slurm/noport", rc=1)
    assert "there is no infra nonsense" in cairn(platform, "check", "nonsense", rc=3)


def test_a_dry_run_says_where_it_would_go_and_for_how_much_or_why_it_never_could(
    platform: Platform, tmp_path: Path
) -> None:
    task = tmp_path / "task.yaml"
    task.write_text(
        "num_nodes: 2\nresources: {cpus: 4+, any_of: [{infra: slurm/lab, accelerators: 'H100:2'}, "
        "{infra: slurm/lab, accelerators: 'A100:1'}]}\nrun: 'true'\n"
    )
    places = cairn(platform, "run", "--dry-run", str(task))["placements"]
    # SkyPilot takes the cheapest first.
    assert [(one["infra"], one["accelerators"], one["num_nodes"], one["price"]) for one in places] == [
        ("slurm/lab", "A100:1", 2, 3.0), ("slurm/lab", "H100:2", 2, 12.0),
    ]  # fmt: skip
    for options, says in (
        (("--infra", "slurm/lab", "--gpus", "H100:16"), "there is no machine for"),
        (("--infra", "slurm/lab", "--gpus", "NOSUCH:1"), "never run there"),
        (
            (
                "--infra",
                "slurm/nowhere",
            ),
            "there is no Slurm cluster nowhere",
        ),
        (
            (
                "--infra",
                "aws",
            ),
            "aws is not enabled",
        ),
    ):
        done = platform.cairn("run", "--dry-run", *options, "--", "true", cwd=tmp_path)
        assert done.returncode == 1, done.stdout + done.stderr
        assert says in done.stderr
    task.write_text("resources: {infra: slurm/lab, image_id: 'docker:no/such'}\nrun: 'true'\n")
    done = platform.cairn("run", "--dry-run", str(task))
    assert (done.returncode, "runs no container images" in done.stderr) == (1, True), done.stderr
    assert list(platform.client().jobs()) == []


def test_a_job_for_a_login_node_that_is_away_ends_and_says_so(platform: Platform) -> None:
    job = platform.client().submit(
        "resources: {infra: slurm/noport, cpus: 1}\nrun: 'true'\ncairn: {max_retries: 1}"
    )
    end = ended(platform, job["uid"])
    assert (end["state"], end["cause"], len(end["attempts"])) == ("FAILED", "CAUSE_INFRA", 2)
    assert "its login node does not answer" in end["message"]
    assert "`Host noport`" in end["message"]


def test_a_probe_goes_all_the_way_and_one_that_cannot_says_where_it_stopped(platform: Platform) -> None:
    good = cairn(platform, "check", "--deep", "slurm/lab")
    assert [step["step"] for step in good["steps"]] == [
        "queued", "admitted", "launched", "ran", "read back", "torn down",
    ]  # fmt: skip
    assert good["ok"]
    assert skypilot(platform, "/status", all_users=True) == []
    bad = cairn(platform, "check", "--deep", "slurm/nowhere", rc=1)
    last = bad["steps"][-1]
    assert (last["step"], last["ok"]) == ("launched", False)
    assert "there is no Slurm cluster nowhere" in last["reason"]


def test_where_there_is_no_room_others_wait_for_one_that_tries_and_all_run_when_room_comes(
    platform: Platform, slurm_cluster: Slurm, tmp_path: Path
) -> None:
    """The one that runs meanwhile is at SkyPilot in the workspace of its team, by its person's name."""
    hog = slurm_cluster.run(
        "sbatch", "--parsable", "-N2", "--gres=gpu:h100:8", "--mem=1G", "-D", "/tmp", "-o", "/dev/null",
        "--wrap", "sleep 900",
    ).strip()  # fmt: skip
    client = platform.client()
    try:
        first = cairn(platform, "run", *ALL_GPUS, "--workdir", str(tmp_path), "--", "true")["uid"]
        until(lambda: "CapacityCircuitOpen" in client.job(first)["reason"], timeout=300)
        second = cairn(platform, "run", *ALL_GPUS, "--workdir", str(tmp_path), "--", "true")["uid"]
        told = until(
            lambda: (reason := client.job(second)["reason"]).startswith("Capacity") and reason, timeout=30
        )
        assert "no room for slurm/lab H100" in told
        # Nobody else is held up.
        other = client.submit("resources: {infra: slurm/lab, cpus: 1}\nrun: sleep 600")["uid"]
        until(lambda: client.job(other)["state"] == "RUNNING", timeout=180)
        found = skypilot(
            platform, "/status", all_users=True, include_credentials=False, include_handle=False,
            summary_response=True,
        )  # fmt: skip
        assert [(one["workspace"], one["user_name"]) for one in found if one["status"] == "UP"] == [
            ("main", "admin")
        ], found
        client.cancel(other)
        shown = cairn(platform, "check", "slurm/lab")["infras"][0]["circuits"]
        assert [one["name"] for one in shown] == ["slurm/lab H100"]
        assert not client.job(second).get("attempts")
    finally:
        slurm_cluster.run("scancel", hog)
    assert ended(platform, first, timeout=400)["state"] == "SUCCEEDED"
    end = ended(platform, second)
    assert (end["state"], len(end["attempts"])) == ("SUCCEEDED", 1)
    assert ended(platform, other)["state"] == "CANCELLED"
    until(lambda: skypilot(platform, "/status", all_users=True) == [], timeout=120)
    assert client.orphans() == []
