"""`cairn notebook` from nothing to a cell that ran; what cannot be started says so."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from cairn._stream import Stream
from cairn.client import Client
from tests.harness.platform import Platform


@pytest.fixture(scope="module")
def platform(session_folder: Path) -> Iterator[Platform]:
    (session_folder / "interactive").mkdir()
    platform = Platform(session_folder / "interactive", CAIRN_LOCAL_GPUS="0")
    platform.up()
    yield platform
    platform.down()


@pytest.fixture(scope="module")
def client(platform: Platform) -> Client:
    return platform.client()


def test_a_model_needs_a_gpu_and_an_editor_has_to_be_installed(platform: Platform) -> None:
    refused = platform.cairn("serve-model", "some/model")
    assert refused.returncode == 1
    assert "no pool has a GPU" in refused.stderr
    shown = platform.cairn("serve-model", "some/model", "--show", "--", "--dtype", "half")
    assert "model some/model --dtype half" in shown.stdout
    if subprocess.run(["sh", "-c", "command -v code-server openvscode-server"], capture_output=True).stdout:
        pytest.skip("an editor is installed here")
    code = platform.cairn("code", "--no-open")
    assert code.returncode == 1
    assert "https://code-server.dev/install.sh" in code.stderr


def call(url: str, token: str, body: bytes | None = None) -> tuple[int, Any]:
    request = urllib.request.Request(url, data=body)
    if token:
        request.add_header("Authorization", f"token {token}")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, None


async def run_cell(base: str, token: str, kernel: str, code: str) -> str:
    """What a cell prints, over the notebook's WebSocket."""
    header = {"msg_id": "1", "msg_type": "execute_request", "username": "", "session": "s", "version": "5.3"}
    message = {
        "header": {**header, "date": "2026-01-01T00:00:00Z"}, "parent_header": {}, "metadata": {},
        "content": {"code": code, "silent": False}, "channel": "shell",
    }  # fmt: skip
    async with await Stream.open(base, f"/api/kernels/{kernel}/channels", token) as stream:
        stream._write(1, json.dumps(message).encode())
        async with asyncio.timeout(60):
            while True:
                _, data = await stream._frame()
                heard = json.loads(data) if data.startswith(b"{") else {}
                if heard.get("msg_type") == "stream":
                    return str(heard["content"]["text"])


@pytest.mark.timeout(600)
async def test_a_notebook_runs_a_cell_and_its_secret_shows_nowhere(
    platform: Platform, client: Client
) -> None:
    command = [platform.program, "notebook", "--no-open", "--json"]
    with subprocess.Popen(command, env=platform.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as own:
        assert own.stdout is not None
        assert own.stderr is not None
        first = own.stdout.readline()
        if not first and b"setup" in (said := own.stderr.read()):
            pytest.skip(f"JupyterLab cannot be installed here: {said.decode()[-300:]}")
        door = json.loads(first)
        parts = urlsplit(door["url"])
        base, token = f"http://{parts.netloc}", parse_qs(parts.query)["token"][0]
        assert call(f"{base}/api/status", token)[0] == 200
        assert call(f"{base}/api/status", "")[0] == 403
        _, kernel = call(f"{base}/api/kernels", token, b"{}")
        shown = await run_cell(base, token, kernel["id"], "import os; print(6 * 7, os.environ['CAIRN_RUN'])")
        assert shown.split() == ["42", door["job"]]
        lines = [line["text"] for line in client.logs(door["job"])["lines"]]
        assert not [line for line in lines if token in line]
        processes = subprocess.run(["ps", "axo", "args"], capture_output=True, text=True).stdout
        assert token not in processes
        again = platform.cairn("exec", door["job"], "--", "python", "-m", "cairn._recipes", "ready")
        assert json.loads(again.stdout)["secret"] == token
        client.cancel(door["job"])
        assert own.wait(60) == 0
    assert own.returncode != -signal.SIGKILL
