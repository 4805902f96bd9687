"""The daemon's end of a worker's socket: many answers at a time, told apart by their ids.

A reader that is slow keeps nobody waiting: its answer gathers here, and is no longer than the
tokens that it asked for. One that goes away is cancelled, and what still comes for it is dropped.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from pydantic_core import PydanticSerializationError

from ftd.core import chat
from ftd.core.errors import FtdError, Kind, invalid
from ftd.core.wire import WireError

READ_BYTES = 2**18
LOOK_S = 1.0  # of listening at a time

# Told every answer to a request as it comes, however late it is read.
Heard = Callable[[chat.Answer], None]


@dataclass(frozen=True, slots=True)
class _Open:
    heard: Heard
    answers: "asyncio.Queue[chat.Answer | FtdError]" = field(default_factory=asyncio.Queue)


class Silent(Exception):
    """A worker that owes an answer has said nothing for too long."""


class Line:
    """One connection to one worker. `load` is told how busy the worker is, and a worker that owes
    an answer may say nothing for `silence_s`.

    right:  silence is what was listened to, look by look
    wrong:  now - last_heard, after which a daemon that was stopped ends every worker
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        load: Callable[[chat.Load], None],
        silence_s: float,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._load = load
        self._silence_s = silence_s
        self._open: dict[str, _Open] = {}
        self._owed: set[str] = set()  # what has no end yet: the open, and the cancelled
        self._broken: FtdError | None = None

    async def listen(self) -> None:
        """Hand out answers until the worker hangs up. Raises WireError for what is no answer,
        and Silent."""
        rest = bytearray()
        while data := await self._read():
            *lines, tail = data.split(b"\n")
            if lines:
                self._hear(chat.decode_answer(bytes(rest) + lines[0]))
                for line in lines[1:]:
                    self._hear(chat.decode_answer(line))
                rest.clear()
            rest += tail
            if len(rest) > chat.LINE_BYTES:
                raise WireError(f"a line longer than {chat.LINE_BYTES} bytes")

    async def ask(self, request: chat.Generate, heard: Heard) -> AsyncGenerator[chat.Answer, None]:
        """Began, Pieces, Finished, and Ended. Leaving it before then cancels the request.

        Raises what the worker refuses with, or what the line was cut with.
        """
        line = _encode(request)
        if self._broken is not None:
            raise again(self._broken)
        assert request.id not in self._open, f"{request.id} is asked twice"
        opened = self._open[request.id] = _Open(heard)
        self._owed.add(request.id)
        try:
            self._writer.write(line)
            await self._drain()
            while True:
                answer = await opened.answers.get()
                if isinstance(answer, FtdError):
                    raise again(answer)
                if isinstance(answer, chat.Refused):
                    raise _refusal(answer)
                yield answer
                if isinstance(answer, chat.Ended):
                    return
        finally:
            if self._open.pop(request.id, None) is not None and not self._writer.is_closing():
                self._writer.write(chat.encode(chat.Cancel(id=request.id)))

    def cut(self, why: FtdError) -> None:
        """End it: every answer that is not complete ends with this error. Idempotent."""
        if self._broken is not None:
            return
        self._broken = why
        for opened in self._open.values():
            opened.answers.put_nowait(why)
        self._open.clear()
        self._writer.transport.abort()

    async def _read(self) -> bytes:
        """What comes next; nothing at the end. Raises Silent."""
        silent_s = 0.0
        while True:
            look_s = min(LOOK_S, self._silence_s)
            try:
                async with asyncio.timeout(look_s):
                    return await self._reader.read(READ_BYTES)
            except ConnectionError:
                return b""  # killed or ended, the worker is gone
            except TimeoutError:
                silent_s = silent_s + look_s if self._owed else 0.0
                if silent_s >= self._silence_s:
                    raise Silent(f"nothing for {self._silence_s:g} seconds") from None

    async def _drain(self) -> None:
        try:
            await self._writer.drain()
        except ConnectionError:
            return  # whoever listens sees the same, and cuts the line with the reason

    def _hear(self, answer: chat.Answer) -> None:
        if isinstance(answer, chat.Load):
            self._load(answer)
            return
        if isinstance(answer, chat.Ended | chat.Refused):
            self._owed.discard(answer.id)
        opened = self._open.get(answer.id)
        if opened is None:
            return  # it was cancelled
        opened.heard(answer)
        opened.answers.put_nowait(answer)
        if isinstance(answer, chat.Ended | chat.Refused):
            del self._open[answer.id]


def again(error: FtdError) -> FtdError:
    """The same error for one more reader: an exception that is raised twice keeps both traces."""
    return FtdError(error.kind, error.message, code=error.code, param=error.param)


def _refusal(refused: chat.Refused) -> FtdError:
    kind = {"overloaded": Kind.UNAVAILABLE, "server_error": Kind.INTERNAL}.get(
        refused.code or "", Kind.INVALID
    )
    return FtdError(kind, refused.message, code=refused.code, param=refused.param)


def _encode(request: chat.Generate) -> bytes:
    try:
        return chat.encode(request)
    except WireError as error:
        raise FtdError(Kind.TOO_LARGE, f"The request is too large: {error}.") from error
    except PydanticSerializationError as error:  # half of a surrogate pair is no character
        raise invalid("The request holds text that is no Unicode.", code="invalid_value") from error
