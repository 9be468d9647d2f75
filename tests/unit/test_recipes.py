"""Interactive jobs: task files that the scheduler takes as they are, and secrets that stay where they are."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cairn._cli.interactive import _seconds
from cairn._cli.tasks import to_yaml
from cairn._recipes import door, servers, task
from cairn_scheduler.task import parse

WANTED = task.Wanted(
    name="mine", idle=1800, cpus="2", accelerators="GPU:1", envs={"A": "b c"}, experiment="try"
)


@pytest.mark.parametrize(
    ("made", "runs"),
    [
        (task.notebook(WANTED), "--idle 1800 notebook"),
        (task.code(WANTED), "--idle 1800 code"),
        (task.model(WANTED, name="Qwen/Qwen3-0.6B", arguments=["--dtype", "a b"]),
         "--idle 1800 model Qwen/Qwen3-0.6B --dtype 'a b'"),
    ],
)  # fmt: skip
def test_the_scheduler_takes_the_task_files(made: dict[str, object], runs: str) -> None:
    text = to_yaml(made)
    spec = parse(text).spec
    assert runs in spec.run
    assert (spec.max_runtime, spec.max_retries) == (12 * 3600, 0)
    assert (spec.resources.gpus, spec.resources.cpu_milli, spec.envs) == (1, 2000, {"A": "b c"})
    assert "\\n" not in text, "scripts stand in it as a person writes them"


@pytest.mark.parametrize(
    "setup", [task.notebook(WANTED)["setup"], task.model(WANTED, name="x", arguments=[])["setup"]]
)
def test_what_is_there_is_not_installed_again(setup: str, tmp_path: Path) -> None:
    for name in ("jupyterlab", "vllm"):
        (tmp_path / f"{name}.py").touch()
    env = {"PATH": f"{Path(sys.executable).parent}:{os.defpath}", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(["bash", "-c", setup], env=env, cwd=tmp_path, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_secret_stands_in_no_argument_and_in_files_of_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    made = [servers.notebook(3600), servers.model("some/model", [])]
    for name in ("openvscode-server", "code-server"):
        (bin_folder / name).write_text("#!/bin/sh\n")
        (bin_folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(bin_folder))
        made.append(servers.code())
    assert len({each.door.secret for each in made}) == 4
    for each in made:
        assert not [word for word in each.command if each.door.secret in word]
        assert each.door.secret not in repr(each)
    door.post(made[0].door)
    private = [path for path in (tmp_path / ".cairn").iterdir() if path.is_file()]
    assert len(private) == 4
    assert {path.stat().st_mode & 0o777 for path in [*private]} == {0o600}


def test_without_a_server_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(servers.Missing, match=r"code-server\.dev/install"):
        servers.code()


def test_the_door_opens_when_something_listens_and_its_connections_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert door.wait(0.01) is None
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        made = door.Door(port, "secret", "/?x=secret", {"password": "secret"})
        door.post(made)
        assert door.wait(10) == made
        server.accept()[0].close()
        assert door.connections(port) == 0
        with socket.create_connection(("127.0.0.1", port)) as mine, server.accept()[0]:
            assert door.connections(port) == 1
            assert mine.getpeername()[1] == port


def test_times_are_read() -> None:
    assert [_seconds(text) for text in ("90", "45m", "2h", "1d")] == [90, 2700, 7200, 86400]
