"""The answer to one request: each of its choices is a row of the batch.

    token -> text that is certain -> cut at a stop sequence -> calls of tools read out -> Piece

All of it runs in the thread that turns the batch; `say` only hands over what is to be sent.
"""

import secrets
import string
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llguidance import LLMatcher
from torch import Tensor

from ftd.core.chat import (
    Answer,
    Began,
    Conversation,
    Ended,
    Finished,
    FinishReason,
    Generate,
    Likely,
    Piece,
    Refused,
    TokenLogprob,
    ToolCall,
)
from ftd.core.errors import FtdError
from ftd.core.toolcalls import Call, CallReader
from ftd.worker.infer.grammar import Guide
from ftd.worker.infer.sampling import Sampler, likely
from ftd.worker.infer.text import Detokenizer, Stops, Vocabulary

# What the daemon's side makes an error of the server of, and not of the request.
SERVER_ERROR = "server_error"
_ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """What replies know of a model's tokens.

    `ends` end an answer. `marks` are special tokens that models write around calls of tools: to
    an answer that may call, they are text.
    """

    vocabulary: Vocabulary
    ends: frozenset[int]
    marks: Mapping[int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request that was read: its prompt's ids, what is echoed, what constrains the answer.

    `room` is how many tokens the context leaves for the answer, at least 1.
    """

    request: Generate
    ids: list[int]
    room: int
    echo: str = ""
    matcher: LLMatcher | None = None
    matcher_param: str = "response_format"


class Reply:
    """Says Began, then what its rows say, then Ended, or Refused at any time.

    `done` is called once, when all is said.
    """

    def __init__(
        self,
        question: Question,
        language: Language,
        say: Callable[[Answer], None],
        done: Callable[[], None],
    ) -> None:
        self.question = question
        self.language = language
        self.say = say
        self._done = done
        self._open = True
        self._began = False
        self._tokens = 0
        request = question.request
        seed = request.sampling.seed
        seed = secrets.randbits(63) if seed is None else seed
        self.rows = [Choice(self, index, seed + index) for index in range(request.sampling.n)]
        self._left = len(self.rows)

    @property
    def id(self) -> str:
        return self.question.request.id

    def cancel(self) -> None:
        """Nobody reads it any more. Idempotent."""
        self._close(Ended(id=self.id, completion_tokens=self._tokens))

    def refuse(self, error: FtdError) -> None:
        """It cannot be done, or not be completed. Idempotent."""
        self._close(Refused(id=self.id, message=error.message, param=error.param, code=error.code))

    def begin(self, prompt_tokens: int, cached_tokens: int) -> None:
        """A row begins; the first one tells."""
        if not self._began:
            self._began = True
            began = Began(id=self.id, prompt_tokens=prompt_tokens, cached_tokens=cached_tokens)
            self.say(began)

    def count(self) -> None:
        """One more token was computed."""
        self._tokens += 1

    def finish(self, index: int, reason: FinishReason) -> None:
        """A row is complete; the last one ends the reply."""
        self.say(Finished(id=self.id, index=index, reason=reason))
        self._left -= 1
        if not self._left:
            self._close(Ended(id=self.id, completion_tokens=self._tokens))

    def _close(self, last: Ended | Refused) -> None:
        if self._open:
            self._open = False
            for row in self.rows:
                row.cancelled = True
            self.say(last)
            self._done()


class Choice:
    """One of a request's answers, as the batch drives it (see batch.Row)."""

    def __init__(self, reply: Reply, index: int, seed: int) -> None:
        question, request = reply.question, reply.question.request
        sampling, prompt = request.sampling, request.prompt
        self.ids = question.ids
        self.owner = request.owner
        self.adapter = request.adapter
        asked = sampling.max_tokens
        self.max_tokens = question.room if asked is None else min(asked, question.room)
        self.cancelled = False
        self._reply = reply
        self._index = index
        self._count = 0
        self._sampler = Sampler(sampling, seed)
        self._guide: Guide | None = None
        if question.matcher is not None:
            self._guide = Guide(question.matcher.deep_copy(), question.matcher_param)
        chat = isinstance(prompt, Conversation)
        self._text = Detokenizer(reply.language.vocabulary, () if chat else self.ids)
        self._stops = Stops(sampling.stop)
        self._calls: CallReader | None = None
        self._parallel = True
        if isinstance(prompt, Conversation) and prompt.tools and prompt.tool_choice != "none":
            self._calls = CallReader([tool["function"]["name"] for tool in prompt.tools])
            self._parallel = prompt.parallel_tool_calls
        self._called = False
        self._top = sampling.top_logprobs
        self.greedy = self._sampler.greedy and self._guide is None and self._top is None
        self._likely: TokenLogprob | None = None  # of the token that was chosen last
        # Logprobs whose text is held back, each with where its token's text begins.
        self._waiting: deque[tuple[int, TokenLogprob]] = deque()
        self._read = 0  # characters that tokens stand for
        self._cut = 0  # characters before any stop sequence

    def began(self, prompt_tokens: int, cached_tokens: int) -> None:
        self._reply.begin(prompt_tokens, cached_tokens)
        if self._reply.question.echo:
            self._say(self._reply.question.echo, [], [])

    def failed(self, error: FtdError) -> None:
        self._reply.refuse(error)

    def choose(self, logits: Tensor) -> int:
        try:
            allowed = None
            if self._guide is not None:
                allowed = self._guide.allowed(len(logits)).to(logits.device)
            token = self._sampler.choose(logits, allowed)
        except FtdError as error:
            self._reply.refuse(error)
            return 0  # it is not taken
        if self._top is not None:
            self._likely = self._logprob(logits, token, self._top)
        return token

    def take(self, token: int) -> bool:
        if self.cancelled:
            return True
        self._count += 1
        self._reply.count()
        self._sampler.take(token)
        ended = token in self._reply.language.ends
        reason: FinishReason | None = "stop" if ended else self._hear(token)
        if reason is None and self._count >= self.max_tokens:
            reason = "length"
        if reason is not None and not self.cancelled:
            self._finish(reason)
        return reason is not None

    def skip(self) -> None:
        """It asks for no tokens: say what there is without any."""
        self.began(len(self.ids), 0)
        self._finish("length")

    def _hear(self, token: int) -> FinishReason | None:
        """Take a token of the text; the reason when the answer ends with it."""
        if self._guide is not None:
            try:
                self._guide.take(token)
            except FtdError as error:
                self._reply.refuse(error)
                return "stop"
        if self._likely is not None:
            self._waiting.append((self._read, self._likely))
        mark = self._reply.language.marks.get(token) if self._calls is not None else None
        self._tell(self._text.push(token) if mark is None else self._text.end() + mark)
        complete = self._guide is not None and self._guide.complete
        if self._stops.hit or complete or (self._called and not self._parallel):
            return "stop"
        return None

    def _tell(self, text: str, *, last: bool = False) -> None:
        """Say what is certain now that `text` has come; all of it when it is the last."""
        self._read += len(text)
        certain = self._stops.push(text)
        if last:
            certain += self._stops.end()
        self._cut += len(certain)
        held = 0
        found: list[str | Call] = [certain]
        if self._calls is not None:
            found = self._calls.push(certain)
            if last:
                found += self._calls.end()
            held = self._calls.held
        said = "".join(each for each in found if isinstance(each, str))
        calls = [each for each in found if isinstance(each, Call)]
        if not self._parallel:
            calls = [] if self._called else calls[:1]
        self._called = self._called or bool(calls)
        logprobs = []
        if said or calls or last:
            end = self._cut - held
            everything = last and not self._stops.hit
            while self._waiting and (everything or self._waiting[0][0] < end):
                logprobs.append(self._waiting.popleft()[1])
        if said or calls or logprobs:
            self._say(said, calls, logprobs)

    def _finish(self, reason: FinishReason) -> None:
        if self._called and not self._parallel:
            reason = "stop"  # what stands behind the one call is dropped
        else:
            self._tell("" if self._stops.hit else self._text.end(), last=True)
        if self._stops.hit:
            reason = "stop"
        if self._called and reason == "stop":
            reason = "tool_calls"
        self._reply.finish(self._index, reason)

    def _say(self, text: str, calls: list[Call], logprobs: list[TokenLogprob]) -> None:
        told = tuple(
            ToolCall(id=_call_id(), name=call.name, arguments=call.arguments) for call in calls
        )
        piece = Piece(
            id=self._reply.id,
            index=self._index,
            text=text,
            tool_calls=told,
            logprobs=tuple(logprobs),
        )
        self._reply.say(piece)

    def _logprob(self, logits: Tensor, token: int, count: int) -> TokenLogprob:
        logprob, best = likely(logits, token, count)
        said = self._shown(token, logprob)
        top = tuple(self._shown(other, chance) for other, chance in best)
        return TokenLogprob(token=said.token, bytes=said.bytes, logprob=logprob, top=top)

    def _shown(self, token: int, logprob: float) -> Likely:
        raw = self._reply.language.vocabulary.bytes(token)
        return Likely(token=raw.decode("utf-8", "replace"), bytes=tuple(raw), logprob=logprob)


def _call_id() -> str:
    return "call_" + "".join(secrets.choice(_ALPHABET) for _ in range(24))
