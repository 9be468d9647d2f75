"""How fast a process can print while `init(console="fd")` records it, beside printing into a pipe alone.

One JSON line; run it as `python -m tests.bench.bench_console`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time

MIB = 200
SCRIPT = """
import os, sys, time
if sys.argv[1] == "fd":
    import cairn
    cairn.init(console="fd", capture=False)
line = b"x" * 79 + b"\\n"
data = line * 800
begun = time.perf_counter()
for _ in range(int(sys.argv[2])):
    view = memoryview(data)
    while view:
        view = view[os.write(1, view):]
print(time.perf_counter() - begun, file=sys.stderr)
"""


def mib_a_second(how: str) -> float:
    """Of lines of 80 bytes, read by somebody who does nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "CAIRN_CONFIG": f"{folder}/none.json"}
        arguments = [sys.executable, "-c", SCRIPT, how, str(MIB * 2**20 // 64_000)]
        begun = time.perf_counter()
        process = subprocess.run(arguments, cwd=folder, env=env, capture_output=True, check=True)
        assert len(process.stdout) >= MIB * 2**20 // 64_000 * 64_000
        return MIB / (time.perf_counter() - begun)


def main() -> None:
    """Prints the line."""
    alone, recorded = mib_a_second("alone"), mib_a_second("fd")
    print(
        json.dumps({"bench": "console", "mib_a_second": round(recorded, 1), "into_a_pipe": round(alone, 1)})
    )


if __name__ == "__main__":
    main()
