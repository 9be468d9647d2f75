"""The process behind `cairn._console`: passes on what it reads, and records it as lines of the run."""

from __future__ import annotations

import json
import os
import selectors
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from cairn import _config
from cairn._marker import Marker
from cairn._runner.console import Console, Secrets
from cairn._spool import Writer

_CHUNK = 256 * 1024
# Of a variable with one of these in its name the value is taken for a secret, from this many characters on.
_TELLING = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "API_KEY", "ACCESS_KEY", "PRIVATE_KEY", "CREDENTIAL")
_LEAST_GUESSED = 8


def secret_values(environ: Mapping[str, str], token: str) -> Iterable[str]:
    """The token, what `CAIRN_SECRETS` names, and what a variable's name says is one."""
    named = environ.get("CAIRN_SECRETS", "").split(",")
    yield token
    for name, value in environ.items():
        if name in named or (len(value) >= _LEAST_GUESSED and any(word in name.upper() for word in _TELLING)):
            yield value


class _Stream:
    """One descriptor: read here, written to `out`, recorded under `number` until the mark comes."""

    def __init__(self, read: int, out: int, number: int, mark: bytes) -> None:
        self.read, self.out, self.number = read, out, number
        self.recorded = True
        self._marker = Marker(mark)
        self._broken = False

    def take(self, console: Console) -> bool:
        """Passes on and records what is there. False: nobody writes any more."""
        try:
            data = os.read(self.read, _CHUNK)
        except OSError:  # how a pseudo-terminal ends
            data = b""
        before, marked, after = self._marker.split(data) if data else (self._marker.rest(), False, b"")
        self._pass_on(before + after)
        if self.recorded and before:
            console.feed(0, self.number, before)
        if self.recorded and (marked or not data):
            self.recorded = False
            console.feed(0, self.number, b"")
        return bool(data)

    def _pass_on(self, data: bytes) -> None:
        while data and not self._broken:
            try:
                data = data[os.write(self.out, data) :]
            except BlockingIOError:
                with selectors.DefaultSelector() as ready:
                    ready.register(self.out, selectors.EVENT_WRITE)
                    ready.select()
            except OSError:  # whoever read it has gone
                self._broken = True


def main(order: str) -> None:
    """Runs until nobody holds the other ends of the streams."""
    told = json.loads(order)
    mark, status = bytes.fromhex(told["marker"]), int(told["status"])
    streams = [_Stream(read, out, number, mark) for read, out, number in told["streams"]]
    writer = Writer(Path(told["spool"]))
    hidden = Secrets(None, secret_values(os.environ, _config.configured().token))
    console = Console(writer, mask=hidden.mask)
    with selectors.DefaultSelector() as ready:
        for stream in streams:
            ready.register(stream.read, selectors.EVENT_READ, stream)
        while ready.get_map():
            for key, _ in ready.select():
                if not key.data.take(console):
                    ready.unregister(key.fileobj)
            if status >= 0 and not any(stream.recorded for stream in streams):
                writer.close()
                with suppress(OSError):
                    os.write(status, b"d")
                    os.close(status)
                status = -1
