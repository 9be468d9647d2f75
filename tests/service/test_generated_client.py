"""A client that a generator makes of the OpenAPI document: whole, good for questions, orders and errors."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cairn.quota.v1 import team_pb2
from cairn.scheduler.v1 import job_pb2
from cairn_common.errors import NotFound, Reason
from tests.harness.gateway import bearer, gateway, neighbours

pytest.importorskip("openapi_python_client", reason="of the extra dev: pip install openapi-python-client")

TOKEN = "cairn_0123456789abcdef-ada"


def generate(document: dict[str, Any], folder: Path) -> None:
    """Makes the package `made_client` in a folder; nothing of the document may be left out."""
    source, settings = folder / "openapi.json", folder / "settings.json"
    source.write_text(json.dumps(document))
    settings.write_text('{"post_hooks": []}')
    done = subprocess.run(
        [
            *(sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none"),
            *("--fail-on-warning", "--path", str(source), "--config", str(settings)),
            *("--output-path", str(folder / "made_client")),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


async def test_it_is_generated_whole_and_works(
    nats_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with neighbours() as behind, gateway(nats_url, behind.address) as http:
        behind.caller(TOKEN, "main")
        document = (await http.get("/api/v1/openapi.json", headers=bearer(TOKEN))).json()
        generate(document, tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        package = importlib.import_module("made_client")
        models = importlib.import_module("made_client.models")
        get_team = importlib.import_module("made_client.api.quota.get_team")
        create_job = importlib.import_module("made_client.api.scheduler.create_job")
        operations = sum(len(path) for path in document["paths"].values())
        assert len(list((tmp_path / "made_client" / "api").glob("*/[a-z]*.py"))) == operations
        async with package.AuthenticatedClient(base_url=str(http.base_url), token=TOKEN) as client:
            behind.answers["GetTeam"] = team_pb2.Team(name="teams/main", display_name="Main")
            team = await get_team.asyncio("main", client=client)
            assert (team.name, team.display_name) == ("teams/main", "Main")
            behind.answers["CreateJob"] = job_pb2.Job(uid="01j", state=job_pb2.Job.PENDING)
            body = models.CreateJobBody(task="run: true")
            job = await create_job.asyncio("main", client=client, body=body, idempotency_key="k-1")
            assert (job.uid, str(job.state)) == ("01j", "PENDING")
            heard = behind.heard("CreateJob").request
            assert (heard.parent, heard.task, heard.request_id) == ("teams/main", "run: true", "k-1")
            behind.answers["GetTeam"] = NotFound("no such team", reason=Reason.TEAM_NOT_FOUND)
            answer = await get_team.asyncio_detailed("main", client=client)
            assert (answer.status_code, answer.parsed.reason) == (404, "TEAM_NOT_FOUND")
