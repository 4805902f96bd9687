"""Models in memory that answer: a word at a time, as they were told to."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from ftd.core import chat
from ftd.core.errors import FtdError, Kind
from ftd.service.actor import Actor
from ftd.service.chat import ChatRequest, Reply, check
from tests.api.grpc.fake_models import FakeModels

CREATED = 1_700_000_000


def question(request: ChatRequest) -> str:
    """What was asked last."""
    if isinstance(request.prompt, chat.Conversation):
        return str(request.prompt.messages[-1].get("content", ""))
    return request.prompt.text if isinstance(request.prompt, chat.Text) else "tokens"


@dataclass
class FakeChat:
    """Says back what it is asked, or what `says` makes of it. `asked` are all requests."""

    models: FakeModels
    says: Callable[[ChatRequest], str] = lambda request: f"You said: {question(request)}"
    asked: list[ChatRequest] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    stall_at: int | None = None  # before this word the answer stands still
    die_at: int | None = None  # before this word the worker ends
    calls: tuple[chat.ToolCall, ...] = ()

    async def generate(self, actor: Actor, request: ChatRequest) -> Reply:
        check(request)
        await self.models.get(actor, request.model)
        self.asked.append(request)
        reply_id = f"chatcmpl-{len(self.asked)}"
        answers = self._answers(request, reply_id)
        began = await anext(answers)
        assert isinstance(began, chat.Began)
        return Reply(
            request_id=reply_id,
            model=request.model,
            created_at=CREATED,
            began=began,
            answers=answers,
        )

    async def _answers(
        self, request: ChatRequest, reply_id: str
    ) -> AsyncGenerator[chat.Answer, None]:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            yield chat.Began(id=reply_id, prompt_tokens=7, cached_tokens=2)
            said = 0
            for index in range(request.sampling.n):
                for number, word in enumerate(_words(self.says(request))):
                    if number == self.stall_at:
                        await asyncio.Event().wait()
                    if number == self.die_at:
                        raise FtdError(
                            Kind.UNAVAILABLE, "The inference worker has ended; try again."
                        )
                    await asyncio.sleep(0)
                    said += 1
                    yield _piece(request, reply_id, index, word)
                if self.calls:
                    yield chat.Piece(id=reply_id, index=index, tool_calls=self.calls)
                reason: chat.FinishReason = "tool_calls" if self.calls else "stop"
                yield chat.Finished(id=reply_id, index=index, reason=reason)
            yield chat.Ended(id=reply_id, completion_tokens=said)
        finally:
            self.running -= 1


def _words(text: str) -> list[str]:
    first, *others = text.split(" ")
    return [first, *(f" {word}" for word in others)]


def _piece(request: ChatRequest, reply_id: str, index: int, word: str) -> chat.Piece:
    likely = request.sampling.top_logprobs
    octets = tuple(word.encode())
    other = chat.Likely(token="other", bytes=tuple(b"other"), logprob=-2.0)
    logprobs = (
        ()
        if likely is None
        else (chat.TokenLogprob(token=word, bytes=octets, logprob=-0.5, top=(other,) * likely),)
    )
    return chat.Piece(id=reply_id, index=index, text=word, logprobs=logprobs)
