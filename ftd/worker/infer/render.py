"""A request's prompt as the model reads it: token ids, none of them forged, and not too many.

A conversation goes through the model's chat template as training renders it, so that a tuned
model is asked in the very form in which it was taught.
"""

from collections.abc import Sequence
from typing import Any

from ftd.core.chat import Conversation, Prompt, Text, Tokens
from ftd.core.errors import FtdError, invalid
from ftd.worker.infer.text import Vocabulary
from ftd.worker.template import ChatTemplate, RenderError

# Stands for an answer where only what the template writes behind it counts.
_SAID = "Said."


class Prompts:
    """Renders for one model. Threads may share it.

    `size` is how many tokens the model knows, `context_tokens` how many it takes in all.
    """

    def __init__(self, tokenizer: Any, *, size: int, context_tokens: int) -> None:
        self.context_tokens = context_tokens
        self.template = ChatTemplate(tokenizer)
        self._size = size
        self._source: str = "" if self.template.fallback else _source(tokenizer)
        self._eos: int | None = tokenizer.eos_token_id

    @property
    def source(self) -> str:
        """The chat template that is told of tools; empty for models without a template."""
        return self._source

    def ids(self, prompt: Prompt) -> list[int]:
        """At least one token, and room for one more. Raises FtdError, with OpenAI's param."""
        match prompt:
            case Conversation():
                ids, param = self._conversation(prompt), "messages"
            case Text():
                encoder = self.template.encoder
                ids, param = encoder.opening + encoder.ids(encoder.quote(prompt.text)), "prompt"
            case Tokens():
                ids, param = self._checked(prompt.ids), "prompt"
        if not ids and self._eos is not None:
            ids = [self._eos]  # how a model is asked for any text at all
        if not ids:
            raise invalid("The prompt is empty.", param=param)
        if len(ids) >= self.context_tokens:
            raise too_long(self.context_tokens, len(ids), param)
        return ids

    def _conversation(self, prompt: Conversation) -> list[int]:
        messages = list(prompt.messages)
        # Who must not call a tool is not told of any.
        tools = list(prompt.tools) if prompt.tool_choice != "none" else []
        if tools and "tools" not in self._source:
            raise invalid(
                "This model's chat template does not know tools.",
                code="unsupported_parameter",
                param="tools",
            )
        try:
            return self.template.prompt_ids(messages, tools or None)
        except RenderError as error:
            raise invalid(
                f"This model's chat template refuses the messages: {error}.", param="messages"
            ) from error

    def _checked(self, ids: Sequence[int]) -> list[int]:
        wrong = next((at for at in ids if not 0 <= at < self._size), None)
        if wrong is not None:
            raise invalid(
                f"Invalid prompt: token {wrong} is not in this model's vocabulary of "
                f"{self._size:,} tokens.",
                param="prompt",
            )
        return list(ids)


def ends(prompts: Prompts, vocabulary: Vocabulary, *told: int | Sequence[int] | None) -> set[int]:
    """The tokens that end an answer: those that the model's files tell, and the one that the
    template writes behind an answer."""
    found: set[int] = set()
    for each in told:
        found |= {each} if isinstance(each, int) else set(each or ())
    try:
        text = prompts.template.read(
            [{"role": "user", "content": "Say."}, {"role": "assistant", "content": _SAID}]
        ).text()
    except RenderError:
        return found  # a template that knows no plain talk has no plain end either
    behind = text.rpartition(_SAID)[2].lstrip()
    token = prompts.template.encoder.control.match(behind)
    if token is not None and (end := vocabulary.id(token[0])) is not None:
        found.add(end)
    return found


def too_long(limit: int, tokens: int, param: str) -> FtdError:
    """OpenAI's words for a prompt that leaves no room for an answer."""
    what = "messages" if param == "messages" else "prompt"
    return invalid(
        f"This model's maximum context length is {limit} tokens. However, your {what} resulted "
        f"in {tokens} tokens. Please reduce the length of the {what}.",
        code="context_length_exceeded",
        param=param,
    )


def _source(tokenizer: Any) -> str:
    source: str = tokenizer.get_chat_template(tools=[])
    return source
