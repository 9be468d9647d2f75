"""Jobs on a Slurm that tell in a folder, which all nodes share, what happens to them, also what must not."""

from __future__ import annotations

from pathlib import Path

from cairn.client import Client
from cairn_common.ids import new_uid
from tests.harness.slurm import CLUSTER, Slurm

BODY = """
exec 9>> {folder}/$CAIRN_RUN.lock
flock -n 9 || echo "$CAIRN_RUN at once" >> {folder}/told
echo "$CAIRN_RUN began" >> {folder}/told
for step in $(seq 1 {steps}); do echo "step $step"; sleep 0.5; done
echo "$CAIRN_RUN done" >> {folder}/told
exit {code}
"""


def new_folder(slurm: Slurm) -> Path:
    """A folder that jobs on all nodes write to."""
    folder = slurm.home / "run" / "tmp" / new_uid()
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def submit(client: Client, told: Path, *, steps: int = 20, code: int = 0, retries: int = 3) -> str:
    """Queues a job of so many half seconds that ends with this code; returns its uid."""
    body = BODY.format(folder=told, steps=steps, code=code)
    run = "".join(f"  {line}\n" for line in body.strip().splitlines())
    resources = f"resources: {{infra: slurm/{CLUSTER}, cpus: 1, memory: 1}}\n"
    task = f"{resources}cairn: {{max_retries: {retries}}}\nrun: |\n{run}"
    return str(client.submit(task, request_id=new_uid())["uid"])


def said(told: Path) -> list[str]:
    """All that the jobs told, in order."""
    path = told / "told"
    return path.read_text().splitlines() if path.exists() else []
