"""Stock clients of MLflow, the oldest that is spoken to and the newest, each in an environment of its own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

from cairn.tracker.v1 import run_pb2, tracker_pb2
from cairn_common.ids import new_uid
from tests.harness.mlflow import Rest
from tests.harness.tracker import Client, run_name

SCRIPT = Path(__file__).parents[1] / "harness" / "mlflow_script.py"


@pytest.fixture(scope="module", params=["mlflow-skinny==3.11.*", "mlflow-skinny"])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with that client; what else it needs it finds here, where that fits."""
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("client")
    venv.create(folder, with_pip=True, symlinks=True)
    inside = next(folder.glob("lib/python*/site-packages"))
    (inside / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [folder / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, request.param], check=True, timeout=240)
    return folder / "bin" / "python"


async def test_a_script_that_knows_nothing_of_cairn_works_as_it_is(python: Path, rest: Rest) -> None:
    mark = new_uid()
    process = await asyncio.create_subprocess_exec(
        # Without the script's folder on the path: modules of the tests lie there.
        *(python, "-P", "-W", "ignore", SCRIPT, mark),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(python.parent),
            "MLFLOW_TRACKING_URI": f"{rest.http.base_url}/mlflow",
            "MLFLOW_TRACKING_TOKEN": rest.token,
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "GIT_PYTHON_REFRESH": "quiet",
        },
        cwd=python.parent,
    )
    said, errors = await asyncio.wait_for(process.communicate(), 200)
    assert process.returncode == 0, errors.decode()[-4000:]
    ids = json.loads(said.decode().splitlines()[-1])
    async with Client(rest.tracker) as client:
        request = tracker_pb2.GetRunRequest(name=run_name(ids["by_hand"]))
        run = await client.runs.GetRun(request)
        assert (run.display_name, run.state) == ("by hand", run_pb2.Run.SUCCEEDED)
        assert dict(run.params) == {"lr": "0.1", "opt": "adam"}
        (series,) = (await client.series(ids["by_hand"], "loss")).series
        assert list(series.steps) == list(range(10))
        request = tracker_pb2.GetRunRequest(name=run_name(ids["trained"]))
        assert (await client.runs.GetRun(request)).summary["training_accuracy_score"].count == 1
