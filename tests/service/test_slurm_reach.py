"""One job on two nodes of a real Slurm: what it brings, what is told of it, reaching in, and its end."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from cairn.client import Client
from tests.harness.platform import Platform
from tests.harness.slurm import CLUSTER, Slurm
from tests.service.test_attach import forwarded

# Slurm's own start, the first time, is the longest part.
pytestmark = pytest.mark.timeout(1800)

SECRET = "sesame-open-42"
TASK = f"""
name: reach
num_nodes: 2
secrets: {{TOKEN_OF_MINE: null}}
resources: {{infra: slurm/{CLUSTER}, cpus: 1, labels: {{purpose: test}}}}
file_mounts:
  in/data: ./data
  ~/reach-conf.json: ./conf.json
setup: echo "setup has $TOKEN_OF_MINE"
run: |
  echo "rank $SKYPILOT_NODE_RANK has $TOKEN_OF_MINE, $(cat in/data/a.txt) and $(cat ~/reach-conf.json)"
  exec python3 -uc '
  import http.server, sys
  server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
  print("port", server.server_port, file=sys.stderr)
  server.serve_forever()'
"""


def until(fact: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def reach(platform: Platform, uid: str, *words: str) -> subprocess.CompletedProcess[str]:
    return platform.cairn("exec", uid, *words)


def test_a_job_on_two_nodes_from_its_files_to_its_end(
    slurm_platform: Platform, slurm_cluster: Slurm, tmp_path: Path
) -> None:
    platform, client = slurm_platform, slurm_platform.client(patience=300)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("a")
    (tmp_path / "conf.json").write_text("b")
    (tmp_path / "task.yaml").write_text(TASK)
    # Outside of what is packed.
    secret = tmp_path.with_suffix(".secret")
    secret.write_text(SECRET)
    made = platform.cairn("run", "task.yaml", "--secret", f"TOKEN_OF_MINE=@{secret}", "--json", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    uid = str(json.loads(made.stdout)["uid"])

    until(lambda: client.job(uid)["state"] == "RUNNING", 300)
    for rank in (0, 1):
        whole = [f"setup has {'*' * 8}", f"rank {rank} has {'*' * 8}, a and b"]
        until(lambda: written(client, uid, rank=rank) == whole, 60)  # noqa: B023
        there = reach(platform, uid, "--rank", str(rank), "--", "sh", "-c", "echo $CAIRN_RANK; exit 7")
        assert (there.stdout, there.returncode) == (f"{rank}\n", 7), there.stderr
    assert reach(platform, uid, "--", "sh", "-c", "echo $CAIRN_RANK").stdout == "0\n"

    ports = [line["text"] for line in client.logs(uid, rank=0)["lines"] if line["text"].startswith("port ")]
    assert fetched(platform, uid, int(ports[0].split()[1])) == b"a"

    told = [(one["kind"], one["text"]) for one in client.timeline(uid)]
    steps = [text for kind, text in told if kind == "PROVISIONING"]
    assert any(text.startswith("Slurm allocation") for text in steps), told
    said = [line["text"] for line in client.logs(uid)["lines"] if line["stream"] == "launch"]
    assert said == steps

    assert platform.cairn("stop", uid).returncode == 0
    until(lambda: client.job(uid)["state"] == "CANCELLED", 60)
    attempt = str(client.job(uid)["attempts"][0]["uid"])
    until(lambda: attempt not in slurm_cluster.run("squeue", "--noheader", "--format=%200j"), 60)
    shown = platform.cairn("show", uid, "--json").stdout
    assert SECRET not in shown + json.dumps(client.logs(uid))
    # Kept, though the machines are gone.
    assert len(client.logs(uid, rank=1)["lines"]) > 2


def fetched(platform: Platform, uid: str, port: int) -> bytes:
    """A file by the job's own web server, through `cairn forward`."""
    with (
        forwarded(platform, uid, port) as (_, (here,)),
        urllib.request.urlopen(f"http://127.0.0.1:{here}/in/data/a.txt", timeout=60) as answer,
    ):
        return bytes(answer.read())


def written(client: Client, uid: str, *, rank: int) -> list[str]:
    """What a rank's scripts wrote."""
    return [line["text"] for line in client.logs(uid, rank=rank)["lines"] if line["stream"] == "stdout"]
