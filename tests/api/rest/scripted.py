"""What answers in place of inference workers, and of another server: by a script, on the wire."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field

from ftd.core import chat
from ftd.core.errors import FtdError, invalid
from ftd.core.models import Model
from ftd.core.wire import WireError
from ftd.serving import line
from ftd.serving.handoff import Relay

Script = Callable[[chat.Generate], AsyncIterator[chat.Answer | FtdError]]


async def small_talk(request: chat.Generate) -> AsyncIterator[chat.Answer | FtdError]:
    """Two pieces for each choice, the choices by turns; 7 tokens of prompt, 5 of them known."""
    yield chat.Began(id=request.id, prompt_tokens=7, cached_tokens=5)
    n = request.sampling.n
    for text in ("Hello", " there"):
        for index in range(n):
            yield piece(request, text, index=index)
    for index in range(n):
        yield chat.Finished(id=request.id, index=index, reason="stop")
    yield chat.Ended(id=request.id, completion_tokens=3 * n)


def piece(request: chat.Generate, text: str, *, index: int = 0) -> chat.Piece:
    told = ()
    if request.sampling.top_logprobs is not None:
        told = (token(text, request.sampling.top_logprobs),)
    return chat.Piece(id=request.id, index=index, text=text, logprobs=told)


def token(text: str, top: int) -> chat.TokenLogprob:
    likely = tuple(
        chat.Likely(token=f"{text}{n or ''}", bytes=tuple(f"{text}{n or ''}".encode()), logprob=-n)
        for n in range(top)
    )
    return chat.TokenLogprob(token=text, bytes=tuple(text.encode()), logprob=-0.25, top=likely)


@dataclass
class ScriptedPool:
    """A pool whose answers are a script's, and go over the wire's own lines."""

    script: Script = small_talk
    asked: list[tuple[str, str | None, chat.Generate]] = field(default_factory=list)
    open: int = 0

    async def generate(
        self, weights: Model, adapter: Model | None, request: chat.Generate
    ) -> AsyncGenerator[chat.Answer, None]:
        try:
            assert chat.decode_asked(line._encode(request)) == request
        except WireError:  # as the worker refuses what it cannot read
            raise invalid("The request cannot be read.", code="invalid_request") from None
        self.asked.append((weights.name, adapter and adapter.name, request))
        self.open += 1
        try:
            async for said in self.script(request):
                if isinstance(said, FtdError):
                    raise said
                yield chat.decode_answer(chat.encode(said))
        finally:
            self.open -= 1


@dataclass
class ScriptedHandoff:
    """Another server, whose answer is what a test says."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    parts: list[bytes | FtdError] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[tuple[str, str, bytes, bool]] = field(default_factory=list)
    closed: int = 0

    async def relay(self, path: str, model: Model, body: bytes, *, renamed: bool) -> Relay:
        self.asked.append((path, model.name, body, renamed))
        return Relay(status=self.status, headers=self.headers, body=self._body(), close=self._close)

    async def _body(self) -> AsyncIterator[bytes]:
        for number, part in enumerate(self.parts):
            if number:
                await self.gate.wait()
            if isinstance(part, FtdError):
                raise part
            yield part

    async def _close(self) -> None:
        self.closed += 1

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Nothing is open."""
