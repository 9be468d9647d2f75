"""A training that is killed with SIGKILL at any moment and started again elsewhere, round after round."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cairn._ids import new_uid
from tests.harness.platform import Platform

INTERVAL = 10

_TRAIN = f"""
import sys, time
import cairn

cairn.init(strict=True)
checkpoint = cairn.latest_checkpoint()
step = 0
if checkpoint:
    assert set(checkpoint.path.read_text().split()) == {{str(checkpoint.step)}}, "it is torn"
    step = checkpoint.step + 1
print("begins", step, flush=True)
while True:
    print("step", step, flush=True)
    cairn.log({{"loss": 1 / (step + 1)}}, step=step)
    time.sleep(0.003)
    if step % {INTERVAL} == {INTERVAL - 1}:
        with open("weights.txt", "w") as file:
            file.write(f"{{step}} " * 50_000)
        cairn.save_checkpoint("weights.txt", step=step, wait=True)
        print("committed", step, flush=True)
    step += 1
"""


@dataclass(frozen=True)
class Round:
    """Steps: where it began, the last one that it reached, the last checkpoint that it knew as committed."""

    begun: int
    reached: int
    committed: int


def rounds(platform: Platform, folder: Path, count: int, *, chance: random.Random) -> Iterator[Round]:
    """So many attempts of one run, each on a disk of its own, each killed within a second of its start."""
    client = platform.client()
    uid = new_uid()
    client.api.post(f"/api/v1/teams/{client.team}/runs", {"run_id": uid})
    token = folder / "token"
    token.write_text(client.token())
    for number in range(1, count + 1):
        yield _round(folder / f"node{number}", client.url, uid, token, number, chance.uniform(0.0, 1.0))


def _round(node: Path, url: str, uid: str, token: Path, number: int, seconds: float) -> Round:
    (node / "spool").mkdir(parents=True)
    told = {
        "CAIRN_URL": url,
        "CAIRN_RUN": uid,
        "CAIRN_SPOOL": str(node / "spool"),
        "CAIRN_TOKEN_FILE": str(token),
        "CAIRN_ATTEMPT": str(number),
    }
    plain = {name: value for name, value in os.environ.items() if not name.startswith("CAIRN_")}
    training = subprocess.Popen(
        [sys.executable, "-c", _TRAIN], env={**plain, **told}, cwd=node, stdout=subprocess.PIPE, text=True
    )
    assert training.stdout is not None
    with training, training.stdout as said:
        first = said.readline().split()
        assert first[:1] == ["begins"], "the training did not begin; its error is above"
        time.sleep(seconds)
        training.send_signal(signal.SIGKILL)
        rest = [line.split() for line in said.read().splitlines(keepends=True) if line.endswith("\n")]
    begun = int(first[1])
    steps = [int(line[1]) for line in rest if line[0] == "step"]
    saved = [int(line[1]) for line in rest if line[0] == "committed"]
    return Round(begun, max(steps, default=begun), max(saved, default=begun - 1))
