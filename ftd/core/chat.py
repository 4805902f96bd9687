"""What an inference worker is asked and what it answers: one JSON line each, over a unix socket.

The worker listens on out/serve.sock of its run directory; the daemon connects once and asks many
things at a time, told apart by `id`. Unlike the wire of facts nothing here is kept: an answer that
nobody reads any more has no worth. Both ends are always of the same release, because an inference
worker ends with its daemon.

    asked                     answered
    Generate(id=...)          Began, then Pieces and one Finished for each choice, then Ended
                              or Refused, and nothing else, whenever it cannot be done
    Cancel(id=...)            Ended, unless it came already

Rates: 16 choices of 20 tokens a second each are 320 Pieces a second of 200 bytes.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from ftd.core.wire import WireError, parse

LINE_BYTES = 32 * 2**20  # of one line: a request's body, and some

Role = Literal["system", "developer", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls"]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Conversation(_Message):
    """A prompt that the model's chat template renders.

    Messages are OpenAI's, checked before: `role`, `content` (a string, or absent beside
    `tool_calls`), `name`, `tool_calls`, `tool_call_id`. Tools are OpenAI's function tools.
    """

    kind: Literal["chat"] = "chat"
    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str = "auto"  # auto, none, required, or the name of one of the tools
    parallel_tool_calls: bool = True


class Text(_Message):
    """A prompt as it stands; control tokens in it are text."""

    kind: Literal["text"] = "text"
    text: str


class Tokens(_Message):
    """A prompt as token ids of the model's own tokenizer."""

    kind: Literal["tokens"] = "tokens"
    ids: tuple[int, ...]


Prompt = Annotated[Conversation | Text | Tokens, Field(discriminator="kind")]


class Sampling(_Message):
    """How each next token is chosen; OpenAI's words and bounds, checked before.

    `temperature` 0 takes the likeliest token. `top_logprobs` None tells no logprobs at all.
    `seed` None draws one; choice i of a request uses seed + i, and answers alike each time.
    """

    max_tokens: int | None = None  # None: as many as the context holds
    temperature: float = 1.0
    top_p: float = 1.0
    n: int = 1
    stop: tuple[str, ...] = ()
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    top_logprobs: int | None = None


class Constraint(_Message):
    """The answer is JSON: of any kind (`json_schema` None), or as a JSON schema says."""

    json_schema: dict[str, Any] | None = None


class Generate(_Message):
    """Answer a prompt, `sampling.n` times.

    `adapter` is the run's directory that holds a PEFT adapter, such as "in/adapters/a1B2c3D4";
    None is the base model alone. With `echo` the answer's text begins with the prompt's. Nothing
    that was computed for one `owner` serves another: how soon an answer comes, or how much of its
    prompt was known, would tell what others have asked.
    """

    kind: Literal["generate"] = "generate"
    id: str
    owner: str = ""
    adapter: str | None = None
    prompt: Prompt
    sampling: Sampling = Sampling()
    constraint: Constraint | None = None
    echo: bool = False


class Cancel(_Message):
    """Nobody reads the answer to `id` any more."""

    kind: Literal["cancel"] = "cancel"
    id: str


Asked = Annotated[Generate | Cancel, Field(discriminator="kind")]


class Likely(_Message):
    """A token that could have stood there."""

    token: str
    bytes: tuple[int, ...]
    logprob: float  # nats; of the distribution before temperature and top_p


class TokenLogprob(Likely):
    """A token that stands there, and the likeliest ones in its place, best first."""

    top: tuple[Likely, ...] = ()


class ToolCall(_Message):
    """A call of a function, whole: `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


class Began(_Message):
    """The prompt is read; `cached_tokens` of it were known from an earlier request."""

    kind: Literal["began"] = "began"
    id: str
    prompt_tokens: int
    cached_tokens: int = 0


class Piece(_Message):
    """The next of one choice's answer. Text never ends inside a character or a stop sequence."""

    kind: Literal["piece"] = "piece"
    id: str
    index: int
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


class Finished(_Message):
    """One choice is complete."""

    kind: Literal["finished"] = "finished"
    id: str
    index: int
    reason: FinishReason


class Ended(_Message):
    """The whole answer is complete, or cancelled; tokens of all choices together."""

    kind: Literal["ended"] = "ended"
    id: str
    completion_tokens: int


class Refused(_Message):
    """It cannot be done as it was asked; `param` and `code` are OpenAI's."""

    kind: Literal["refused"] = "refused"
    id: str
    message: str
    param: str | None = None
    code: str | None = None


class Load(_Message):
    """How busy the worker is, said when it changes and at most ten times a second; while it works
    also every ten seconds, as a sign of life."""

    kind: Literal["load"] = "load"
    running: int  # choices in the batch
    waiting: int  # choices that wait for a row of it
    adapters: int  # loaded
    cached_tokens: int  # kept of earlier requests


Answer = Annotated[Began | Piece | Finished | Ended | Refused | Load, Field(discriminator="kind")]

_ASKED: TypeAdapter[Asked] = TypeAdapter(Asked)
_ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)


def encode(message: BaseModel) -> bytes:
    """One line, newline included. Raises WireError when it is longer than LINE_BYTES."""
    line = message.model_dump_json().encode() + b"\n"
    if len(line) > LINE_BYTES:
        raise WireError(f"a {type(message).__name__} of {len(line)} bytes exceeds {LINE_BYTES}")
    return line


def decode_asked(line: bytes) -> Asked:
    """Raises WireError for what is no line of this protocol."""
    return parse(_ASKED, line)


def decode_answer(line: bytes) -> Answer:
    """Raises WireError, as decode_asked does."""
    return parse(_ANSWER, line)
