"""Stock clients of MLflow, the oldest that is spoken to and the newest, each in an environment of its own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from cairn.tracker.v1 import run_pb2, tracker_pb2
from cairn_common.ids import new_uid
from tests.harness.mlflow import Rest
from tests.harness.tracker import Client, run_name

HARNESS = Path(__file__).parents[1] / "harness"
OLDEST, NEWEST = "mlflow-skinny==3.11.*", "mlflow-skinny"


@pytest.fixture(scope="module", params=[OLDEST, NEWEST])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with that client; what else it needs it finds here, where that fits."""
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("client")
    # By the pip that is here: to install another one first takes longer than the client itself.
    venv.create(folder, with_pip=False, symlinks=True)
    inside = next(folder.glob("lib/python*/site-packages"))
    (inside / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install", "-q"]
    subprocess.run([*pip, request.param], check=True, timeout=240)
    return python


async def run(python: Path, rest: Rest, script: str, *arguments: str, **more: str) -> dict[str, str]:
    """What a script prints in its last line."""
    process = await asyncio.create_subprocess_exec(
        # Without the script's folder on the path: modules of the tests lie there.
        *(python, "-P", "-W", "ignore", HARNESS / script, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(python.parent),
            "MLFLOW_TRACKING_URI": f"{rest.http.base_url}/mlflow",
            "MLFLOW_TRACKING_TOKEN": rest.token,
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            # Else only files of 500 MB go in parts.
            "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE": "1000000",
            "MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE": str(5 * 2**20),
            "MLFLOW_MULTIPART_DOWNLOAD_CHUNK_SIZE": str(5 * 2**20),
            "GIT_PYTHON_REFRESH": "quiet",
            **more,
        },
        cwd=python.parent,
    )
    said, errors = await asyncio.wait_for(process.communicate(), 200)
    assert process.returncode == 0, errors.decode()[-4000:]
    told: dict[str, str] = json.loads(said.decode().splitlines()[-1])
    return told


async def test_a_script_that_knows_nothing_of_cairn_works_as_it_is(
    python: Path, rest: Rest, request: pytest.FixtureRequest
) -> None:
    ids = await run(python, rest, "mlflow_script.py", new_uid())
    async with Client(rest.tracker) as client:
        wanted = tracker_pb2.GetRunRequest(name=run_name(ids["by_hand"]))
        found = await client.runs.GetRun(wanted)
        assert (found.display_name, found.state) == ("by hand", run_pb2.Run.SUCCEEDED)
        assert dict(found.params) == {"lr": "0.1", "opt": "adam"}
        (series,) = (await client.series(ids["by_hand"], "loss")).series
        assert list(series.steps) == list(range(10))
        wanted = tracker_pb2.GetRunRequest(name=run_name(ids["trained"]))
        assert (await client.runs.GetRun(wanted)).summary["training_accuracy_score"].count == 1
        # The newest client's large files passed all services by.
        sent = await client.postgres.fetch(
            "SELECT path, done FROM mlflow_uploads WHERE path LIKE '%/' || $1 || '/artifacts/%'",
            ids["by_hand"],
        )
    names = [(row["path"].rpartition("/")[2], row["done"]) for row in sent]
    newest = request.node.callspec.params["python"] == NEWEST
    assert names == ([("weights.bin", True)] if newest else [])


async def test_a_jobs_script_logs_and_registers_its_model_by_its_runs_token(python: Path, rest: Rest) -> None:
    uid, name = await rest.run(), f"job-{new_uid()}"
    ids = await run(python, rest.as_run(uid), "mlflow_job.py", name, MLFLOW_RUN_ID=uid)
    assert ids["run"] == uid
    version = (await rest.get("model-versions/get", name=name, version="1"))["model_version"]
    assert (version["run_id"], version["source"]) == (uid, f"models:/{ids['model']}")
