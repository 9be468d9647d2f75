"""What SkyPilot's API server leaves running ends with it, whatever it does; without SkyPilot."""

from __future__ import annotations

import asyncio
import os
import subprocess
from dataclasses import replace
from pathlib import Path

from cairn_server import processes
from cairn_server.backends import skypilot
from cairn_server.backends.program import Program
from cairn_server.supervisor import Supervisor

# Workers that start others all the time, in sessions of their own, and do not hear SIGTERM. One of them shows
# no environment, as those whose title is written over it.
SERVER = """
trap '' TERM
work() { while true; do setsid sleep 600 & sleep 0.02; done; }
setsid bash -c "trap '' TERM; $(declare -f work); work" &
env -i setsid sleep 600 &
echo up > up
wait
"""


def program(folder: Path) -> Program:
    """As SkyPilot's is described, with a server of ours in it."""
    venv = skypilot.venv_folder(folder, {})
    venv.mkdir(parents=True)
    (venv / "ok").touch()
    made = skypilot.prepare(
        folder, port=1, operator={"HOME": str(folder / "operator"), "PATH": os.environ["PATH"]}
    )

    async def probe() -> None:
        while not (folder / "home" / "up").exists():
            await asyncio.sleep(0.02)

    return replace(made, argv=("/bin/bash", "-c", SERVER), probe=probe, port=None)


async def test_nothing_of_a_server_that_will_not_stop_outlives_it(tmp_path: Path) -> None:
    folder = tmp_path / "skypilot"
    other = subprocess.Popen(["sleep", "600"], env={"CAIRN_SKYPILOT_FOLDER": str(tmp_path / "other")})
    try:
        supervisor = Supervisor(tmp_path, lambda: None)
        async with supervisor.running([program(folder)]):
            (child,) = supervisor.children
            pid, began = child.pid, child.began
            assert pid is not None
            assert began is not None
            assert left(folder)
        assert not processes.is_same(pid, began)
        assert left(folder) == []
        # Another platform's goes on.
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def left(folder: Path) -> list[str]:
    mark = f"CAIRN_SKYPILOT_FOLDER={folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (
                mark in (entry / "environ").read_bytes().split(b"\0")
                or os.readlink(entry / "cwd") == str(folder / "home")
            ):
                found.append((entry / "cmdline").read_text())
        except OSError:
            continue
    return found


async def test_a_server_elsewhere_is_asked_whether_it_answers() -> None:
    async def healthy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        writer.close()

    async with await asyncio.start_server(healthy, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert await asyncio.to_thread(skypilot.answers, url)
    for nobody in (url, "http://no.such.host.invalid", "nonsense"):
        assert not await asyncio.to_thread(skypilot.answers, nobody)
