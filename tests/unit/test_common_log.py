"""A log line that cannot be written is lost; the work that wanted to tell it goes on."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import logging, structlog
from cairn_common.log import configure_logging

configure_logging("test", "INFO")
for number in range(2000):
    structlog.get_logger().info("something.happened", number=number, text="x" * 100)
    logging.getLogger("library").warning("something is wrong")
print("went on")
"""


def test_a_full_disk_under_the_log_stops_nobody() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", CODE], stderr=full, stdout=subprocess.PIPE, text=True, timeout=60
        )
    assert done.stdout == "went on\n"
