"""The two ends' view of a session: messages of the attach service, with windows both ways."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from cairn._attach.window import Ahead, Taken
from cairn._stream import CHUNK, Stream
from cairn.scheduler.v1 import attach_pb2 as pb

ATTACH, SERVE, CARRY = (f"/api/v1/streams/{name}" for name in ("attach", "serve", "carry"))


class RunnerLine:
    """The runner's end of one session."""

    def __init__(self, stream: Stream, start: pb.AttachStart) -> None:
        self.start = start
        # Set by the agent: what is left of the session is not waited for.
        self.attempt_ended = False
        self._stream = stream
        self._ahead = Ahead()
        self._taken = Taken()

    @classmethod
    async def take(cls, stream: Stream, session: str) -> RunnerLine | None:
        """Takes a session; None: it has gone. Raises ApiError, Unreachable."""
        await stream.send(pb.CarryRequest(session=session).SerializeToString())
        first = await stream.receive()
        return None if first is None else cls(stream, pb.CarryResponse.FromString(first).start)

    async def inputs(self) -> AsyncGenerator[pb.Input, None]:
        """What the person sends, until they have gone. Raises ApiError, Unreachable."""
        while (raw := await self._stream.receive()) is not None:
            item = pb.CarryResponse.FromString(raw).input
            if item.WhichOneof("input") == "taken":
                self._ahead.took(item.taken)
            else:
                yield item

    async def write(self, data: bytes, *, error: bool = False) -> None:
        """Sends data, as fast as the person takes it. Raises ApiError, Unreachable."""
        for place in range(0, len(data), CHUNK):
            part = data[place : place + CHUNK]
            await self._ahead.room(part)
            await self.say(pb.Output(error_data=part) if error else pb.Output(data=part))

    async def took(self, data: bytes) -> None:
        """Counts input as taken."""
        if self._taken.take(data):
            await self.say(pb.Output(taken=self._taken.total))

    async def say(self, output: pb.Output) -> None:
        """Sends what is no data. Raises ApiError, Unreachable."""
        await self._stream.send(pb.CarryRequest(output=output).SerializeToString())


class PersonLine:
    """A person's end of one session."""

    def __init__(self, stream: Stream, attached: pb.Attached) -> None:
        self.attached = attached
        self._stream = stream
        self._ahead = Ahead()
        self._taken = Taken()

    @classmethod
    async def begin(cls, stream: Stream, start: pb.AttachStart) -> PersonLine:
        """Returns once a runner took the session. Raises ApiError, Unreachable."""
        await stream.send(pb.AttachRequest(start=start).SerializeToString())
        first = await stream.receive()
        return cls(stream, pb.AttachResponse.FromString(first or b"").attached)

    async def outputs(self) -> AsyncGenerator[pb.Output, None]:
        """What comes from the attempt, until the session's end. Raises ApiError, Unreachable."""
        while (raw := await self._stream.receive()) is not None:
            output = pb.AttachResponse.FromString(raw).output
            if output.WhichOneof("output") == "taken":
                self._ahead.took(output.taken)
            else:
                yield output

    async def write(self, data: bytes) -> None:
        """Sends input, as fast as it is taken. Raises ApiError, Unreachable."""
        for place in range(0, len(data), CHUNK):
            part = data[place : place + CHUNK]
            await self._ahead.room(part)
            await self.say(pb.Input(data=part))

    async def took(self, data: bytes) -> None:
        """Counts output as taken."""
        if self._taken.take(data):
            await self.say(pb.Input(taken=self._taken.total))

    async def say(self, item: pb.Input) -> None:
        """Sends what is no data. Raises ApiError, Unreachable."""
        await self._stream.send(pb.AttachRequest(input=item).SerializeToString())
