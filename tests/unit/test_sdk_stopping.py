"""A program that is told to end: what it finds out, what is called, and what stays as it was."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

BEGIN = "import os, signal, sys, time\nimport cairn\n"
TERM = "os.kill(os.getpid(), signal.SIGTERM)\n"


def run(script: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + script], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout.split()


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        # Nothing is installed before it is asked for.
        (TERM + "print('never')", -signal.SIGTERM, []),
        (f"print(cairn.stopping())\n{TERM}print(cairn.stopping())", 0, ["False", "True"]),
        # Only callbacks: they are called, then the program ends, its own clean-up included.
        (
            "import atexit\natexit.register(print, 'exit')\ncairn.on_stop(lambda: print('one'))\n"
            f"cairn.on_stop(lambda: 1 / 0)\ncairn.on_stop(lambda: print('two'))\n{TERM}print('never')",
            128 + signal.SIGTERM,
            ["one", "two", "exit"],
        ),
        # A loop that asks ends by itself.
        (
            f"cairn.on_stop(lambda: print('called'))\ncairn.stopping()\n{TERM}{TERM}print('on')",
            0,
            ["called", "on"],
        ),
        # Who was there before is still called.
        (
            f"signal.signal(signal.SIGTERM, lambda *a: print('before'))\ncairn.stopping()\n{TERM}"
            "print(cairn.stopping())",
            0,
            ["before", "True"],
        ),
        # A fork, such as a data loader's worker, ends as if there were no handler.
        (
            "cairn.stopping()\nready, begun = os.pipe()\nchild = os.fork()\n"
            "if not child:\n    os.write(begun, b'x')\n    time.sleep(30)\n    os._exit(1)\n"
            "os.read(ready, 1)\nos.kill(child, signal.SIGTERM)\n"
            "print(os.waitpid(child, 0)[1], cairn.stopping())",
            0,
            ["15", "False"],
        ),
        # A loop that saves when it is due: told to end, it saves once more and ends.
        (
            "import tempfile\nos.chdir(tempfile.mkdtemp())\n"
            "print(cairn.checkpoint_due(), cairn.checkpoint_due(0))\n"
            f"{TERM}print(cairn.checkpoint_due(), cairn.stop_reason())\nsys.stdout.flush()\n"
            "open('state', 'w').close()\ncairn.save_checkpoint('state', step=1)\nprint('never')",
            128 + signal.SIGTERM,
            ["False", "True", "True", "stopped"],
        ),
        # One that asks `stopping()` as well ends by itself, and hears why.
        (
            "import tempfile\nos.chdir(tempfile.mkdtemp())\nopen('n', 'w').write('preempted')\n"
            "os.environ['CAIRN_NOTICE'] = os.path.abspath('n')\ncairn.stopping(), cairn.checkpoint_due()\n"
            f"print(repr(cairn.stop_reason()))\n{TERM}open('state', 'w').close()\n"
            "cairn.save_checkpoint('state', step=1)\nprint(cairn.stop_reason())",
            0,
            ["''", "preempted"],
        ),
        # From a thread nothing can be installed; that is said, and nothing breaks.
        (
            "import threading\nt = threading.Thread(target=lambda: print(cairn.stopping()))\n"
            "t.start()\nt.join()",
            0,
            ["False"],
        ),
    ],
)  # fmt: skip
def test_a_signal_to_end(script: str, code: int, said: list[str]) -> None:
    assert run(script) == (code, said)
