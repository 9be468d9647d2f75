"""``python -m cairn._runner [--drain | --node] <folder>``; exit code 0 unless it could not do its work."""

from __future__ import annotations

import argparse
import logging
import resource
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m cairn._runner", description="Runs one attempt of a job.")
    parser.add_argument("folder", type=Path, help="the attempt's folder, with its launch.json")
    parser.add_argument("--drain", action="store_true", help="only ship what an earlier runner left behind")
    parser.add_argument("--node", action="store_true", help="run the rank that SkyPilot says this node has")
    parser.add_argument(
        "--attach", action="store_true", help="only let people in, beside the attempt's runner"
    )
    parser.add_argument("--files", type=int, help="how many files the job may open, if it does not ask")
    options = parser.parse_args()
    if options.files is not None:
        # The service that starts this one may open more, for itself.
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (options.files, hard))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    folder = options.folder.absolute()
    if options.drain:
        from cairn._runner.drain import drain_left

        return 0 if drain_left(folder) else 1
    if options.node:
        from cairn._runner.node import run_node

        return run_node(folder)
    if options.attach:
        from cairn._attach.agent import main as attach

        return attach(folder)
    from cairn._runner.attempt import run_attempt

    run_attempt(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
