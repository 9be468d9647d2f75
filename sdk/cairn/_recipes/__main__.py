"""``python -m cairn._recipes --idle SECONDS notebook | code | model NAME ...``, in the job; and ``ready``,
for those who reach into it."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict

from cairn._recipes import servers
from cairn._recipes.door import connections, post, wait

_READY_SECONDS = 1800.0
_LOOK_SECONDS = 15.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m cairn._recipes")
    parser.add_argument("--idle", type=int, default=3600, help="seconds without use, then it stops")
    parser.add_argument("what", choices=("notebook", "code", "model", "ready"))
    parser.add_argument("words", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.what == "ready":
        return _ready()
    try:
        server = _server(options.what, options.idle, options.words)
    except servers.Missing as error:
        print(error, file=sys.stderr)  # noqa: T201 - to the job's log
        return 1
    post(server.door)
    return _run(server, options.idle)


def _server(what: str, idle: int, words: list[str]) -> servers.Server:
    if what == "notebook":
        return servers.notebook(idle)
    return servers.code() if what == "code" else servers.model(words[0], words[1:])


def _run(server: servers.Server, idle: int) -> int:
    """Until it ends, or nobody was connected for `idle` seconds: then the job has succeeded."""
    child = subprocess.Popen(server.command, env={**os.environ, **server.envs}, stdin=subprocess.DEVNULL)
    # The whole group gets a job's SIGTERM; what counts is how the server takes it.
    signal.signal(signal.SIGTERM, lambda *_: None)
    used = time.monotonic()
    while True:
        try:
            return child.wait(_LOOK_SECONDS if server.watched else None)
        except subprocess.TimeoutExpired:
            if connections(server.door.port):
                used = time.monotonic()
            if time.monotonic() - used >= idle:
                print(f"nobody was connected for {idle} s: stopping", flush=True)  # noqa: T201
                child.terminate()
                child.wait()
                return 0


def _ready() -> int:
    door = wait(_READY_SECONDS)
    if door is None:
        print("the server did not come up", file=sys.stderr)  # noqa: T201
        return 1
    print(json.dumps(asdict(door)))  # noqa: T201 - to the one who reached in
    return 0


if __name__ == "__main__":
    sys.exit(main())
