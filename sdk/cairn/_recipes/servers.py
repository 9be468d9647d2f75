"""How each server is started: on the loopback, behind a secret of this job alone."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cairn._recipes.door import FOLDER, Door, free_port, new_secret, write_private
from cairn._recipes.task import PACKAGES


class Missing(Exception):
    """The server is not installed. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Server:
    """What to start. `watched`: it does not see by itself that nobody uses it."""

    door: Door
    command: Sequence[str]
    envs: dict[str, str] = field(default_factory=dict, repr=False)
    watched: bool = True


def notebook(idle: int) -> Server:
    """JupyterLab; it stops itself after `idle` seconds without kernels and requests, and kernels likewise."""
    secret, port = new_secret(), free_port()
    config = {
        "IdentityProvider": {"token": secret},
        "ServerApp": {
            "ip": "127.0.0.1", "port": port, "port_retries": 0, "open_browser": False, "allow_root": True,
            "root_dir": os.getcwd(), "shutdown_no_activity_timeout": idle,
        },
        "MappingKernelManager": {
            "cull_idle_timeout": idle, "cull_connected": True, "cull_interval": max(1, min(60, idle // 4)),
        },
        "TerminalManager": {
            "cull_inactive_timeout": idle, "cull_interval": max(1, min(60, idle // 4)),
        },
    }  # fmt: skip
    path = write_private("jupyter_server_config.json", json.dumps(config))
    return Server(
        door=Door(port, secret, f"/lab?token={secret}"),
        command=[sys.executable, "-m", "jupyterlab", f"--config={path}"],
        envs={
            "PYTHONPATH": _python_path(),
            # Its own notes hold the secret, too.
            "JUPYTER_RUNTIME_DIR": str((FOLDER / "runtime").absolute()),
        },
        watched=False,
    )


def code() -> Server:
    """code-server, or openvscode-server. Raises Missing."""
    secret, port = new_secret(), free_port()
    if program := shutil.which("code-server"):
        words = {"bind-addr": f"127.0.0.1:{port}", "auth": "password", "password": secret, "cert": "false"}
        lines = "".join(f"{name}: {value}\n" for name, value in words.items())
        path = write_private("code-server.yaml", lines)
        return Server(
            door=Door(port, secret, "/", {"password": secret}),
            command=[program, "--config", str(path), "--disable-telemetry", "."],
        )
    if program := shutil.which("openvscode-server"):
        path = write_private("code-token", secret)
        return Server(
            door=Door(port, secret, f"/?tkn={secret}"),
            command=[
                program, "--host", "127.0.0.1", "--port", str(port), "--connection-token-file", str(path),
                "--telemetry-level", "off", "--default-folder", os.getcwd(),
            ],
        )  # fmt: skip
    raise Missing(
        "neither code-server nor openvscode-server is installed where this job runs. Install one of them "
        "there, or in `setup`: curl -fsSL https://code-server.dev/install.sh | sh -s -- --method=standalone "
        "--prefix=$HOME/.local, and have $HOME/.local/bin in PATH"
    )


def model(name: str, arguments: Sequence[str]) -> Server:
    """vLLM with an API as OpenAI has it."""
    secret, port = new_secret(), free_port()
    return Server(
        door=Door(port, secret, "/v1", {"api_key": secret, "model": name}),
        command=[
            sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", name,
            "--host", "127.0.0.1", "--port", str(port), *arguments,
        ],
        envs={"VLLM_API_KEY": secret, "PYTHONPATH": _python_path()},
    )  # fmt: skip


def _python_path() -> str:
    """With what `setup` has installed for this job alone."""
    folders = [str(Path(PACKAGES).absolute()), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(filter(None, folders))
