"""A real browser that tests click through: Chromium, told what to do over a pipe (DevTools protocol)."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_COMMAND = (
    "chromium --headless --no-sandbox --disable-gpu --no-first-run --disable-sync --disable-component-update"
    " --disable-background-networking --remote-debugging-pipe"
    # Nothing but what runs here: a page that asks for more is not held up by it.
    " --host-resolver-rules='MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost'"
    ' --user-data-dir="$1" about:blank 3<&"$2" 4>&"$3"'
)


@dataclass
class Browser:
    """A running one."""

    write: int
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _asked: dict[int, asyncio.Future[Any]] = field(default_factory=dict)

    async def ask(self, method: str, session: str | None = None, **params: Any) -> Any:
        """One call of the protocol."""
        number = next(self._ids)
        self._asked[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": params}
        os.write(
            self.write, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0"
        )
        try:
            async with asyncio.timeout(30):
                return await self._asked[number]
        finally:
            del self._asked[number]

    async def hear(self, reader: asyncio.StreamReader) -> None:
        """Answers, until it ends."""
        while True:
            message = json.loads((await reader.readuntil(b"\0"))[:-1])
            asked = self._asked.get(message.get("id", 0))
            if asked is not None and not asked.done():
                asked.set_result(message.get("result", message))

    async def page(self, address: str) -> Page:
        """A window with cookies of its own."""
        context = (await self.ask("Target.createBrowserContext"))["browserContextId"]
        made = await self.ask("Target.createTarget", url=address, browserContextId=context)
        attached = await self.ask("Target.attachToTarget", targetId=made["targetId"], flatten=True)
        return Page(self, attached["sessionId"])


@dataclass(frozen=True)
class Page:
    """One window."""

    browser: Browser
    session: str

    async def get(self, expression: str) -> Any:
        """The value of an expression, or of its promise; None where the page was just left."""
        answer = await self.browser.ask(
            "Runtime.evaluate", self.session, expression=expression, awaitPromise=True, returnByValue=True
        )
        return answer.get("result", {}).get("value")

    async def until(self, expression: str, *, timeout: float = 20) -> Any:
        """The expression's value, once it is true."""
        try:
            async with asyncio.timeout(timeout):
                while not (value := await self.get(expression)):
                    await asyncio.sleep(0.02)
                return value
        except TimeoutError:
            shown = await self.get("location.href + ' ' + document.body?.innerText")
            raise AssertionError(f"{expression} did not come to be; it shows {shown}") from None

    async def click(self, text: str) -> None:
        """Clicks the button that says so, once it is there."""
        await self.until(
            f"(b => b && (b.click(), true))([...document.querySelectorAll('button')].find("
            f"b => b.textContent.trim() === {json.dumps(text)} && !b.disabled))"
        )

    async def fill(self, **values: str) -> None:
        """Types into the fields with these names, once they are there."""
        for name, value in values.items():
            await self.until(
                f"(f => f && (f.value = {json.dumps(value)}, true))(document.querySelector('[name={name}]'))"
            )


@asynccontextmanager
async def chromium(profile: Path) -> AsyncIterator[Browser]:
    """The browser, for the block."""
    (read_there, write), (read, write_there) = os.pipe(), os.pipe()
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", f"exec {_COMMAND}", "chromium", str(profile), str(read_there), str(write_there)),
        pass_fds=(read_there, write_there),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    os.close(read_there), os.close(write_there)
    reader = asyncio.StreamReader(limit=64 * 2**20)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read, "rb")
    )
    browser = Browser(write)
    hearing = asyncio.create_task(browser.hear(reader))
    try:
        yield browser
    finally:
        hearing.cancel()
        transport.close()
        os.close(write)
        # Without its pipe it ends by itself; the profile is then free.
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
            await process.wait()
