"""The page as a browser has it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from tests.harness.waiting import until

_ARGV = (
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip


def browse(address: str, profile: Path) -> str:
    """The page as Chromium has it after its scripts ran."""
    done = subprocess.run(
        [*_ARGV, f"--user-data-dir={profile}", "--virtual-time-budget=8000", "--dump-dom", address],
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


class Page:
    """A page that is clicked on: Chromium's own protocol, by two pipes."""

    def __init__(self, orders: BinaryIO, answers: BinaryIO) -> None:
        self._orders, self._answers = orders, answers
        self._number = 0
        self._session: str | None = None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def go(self, address: str) -> None:
        """Begins to load the page of an address."""
        self._call("Page.navigate", url=address)

    def ask(self, expression: str) -> Any:
        """What an expression in JavaScript comes to."""
        found = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = 20.0) -> Any:
        """The expression's value, once it has one that is true."""
        return until(lambda: self.ask(expression), seconds)

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        order = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            order["sessionId"] = self._session
        self._orders.write(json.dumps(order).encode() + b"\0")
        while True:
            answer = json.loads(_message(self._answers))
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])


@contextmanager
def page(profile: Path) -> Iterator[Page]:
    """A browser with one page, for the block."""
    (theirs, ours), (answers, said) = os.pipe(), os.pipe()
    pipes = f'exec "$@" 3</proc/self/fd/{theirs} 4>/proc/self/fd/{said}'
    argv = ["sh", "-c", pipes, "sh", *_ARGV, f"--user-data-dir={profile}", "--remote-debugging-pipe"]
    browser = subprocess.Popen(
        argv, pass_fds=(theirs, said), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(theirs)
    os.close(said)
    try:
        with os.fdopen(ours, "wb", buffering=0) as orders, os.fdopen(answers, "rb") as heard:
            yield Page(orders, heard)
    finally:
        browser.kill()
        browser.wait(30)


def _message(stream: BinaryIO) -> bytes:
    """What comes before the next zero byte."""
    found = bytearray()
    while (byte := stream.read(1)) != b"\0":
        assert byte, "the browser has gone"
        found += byte
    return bytes(found)
