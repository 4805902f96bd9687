"""A model's chat template: messages in, the text that the model reads out.

Training and inference render through here, so that a tuned model is asked in the very form in
which it was taught. Rendering depends on nothing but its arguments: templates that print today's
date are given a fixed one. Templates come with models, and are bounded in what they may cost.
"""

import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import date
from hashlib import sha256
from itertools import product, takewhile
from typing import Any

import jinja2
from transformers.utils import chat_template_utils

from ftd.worker.allowance import Costly, allowing
from ftd.worker.control import BREAK
from ftd.worker.encoding import Encoder
from ftd.worker.pricing import Environment, on

# transformers makes its environment inside a function, from the class that it knows by this name.
chat_template_utils.ImmutableSandboxedEnvironment = Environment

Message = dict[str, Any]

# How reasoning models of several makers end what they think before they answer.
END_OF_THOUGHT = "</think>"

# The day that Llama 3 templates assume when they are rendered without a clock.
FIXED_DAY = date(2024, 7, 26)

# For models without a template: the headers of ChatML, each turn ended by the model's own
# end-of-text token, so that every program that generates from the model stops there.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + (eos_token or '') + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_TAG = re.compile(r"{%-?\s*generation\s*-?%}")
# transformers keeps what is tagged with the compiled template, which all threads share.
_TRACKING = threading.Lock()

# What foreign code in a sandbox may raise; running out of memory is ours.
_TEMPLATE_FAULTS = (
    jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError,
    SyntaxError, ValueError,
)  # fmt: skip
_COMPLAINT_CHARACTERS = 500


class RenderError(ValueError):
    """The template refuses these messages, or loses their words."""


class Unbounded(RenderError):
    """The template costs too much, whatever form the messages have."""


class ChatTemplate:
    """The template of a tokenizer, or CHATML where it has none (`fallback`).

    `today` is what the template is told about the date.
    """

    def __init__(self, tokenizer: Any, *, today: date = FIXED_DAY) -> None:
        self.fallback = tokenizer.chat_template is None
        self._today = today
        self._plain: str = CHATML if self.fallback else tokenizer.get_chat_template()
        self._with_tools: str = (
            self._plain if self.fallback else tokenizer.get_chat_template(tools=[])
        )
        self._special_tokens = tokenizer.special_tokens_map
        self.encoder = Encoder(tokenizer, self._plain + self._with_tools)

    def fingerprint(self) -> str:
        """A hash of all that decides which ids a chat becomes; a fresh one each time where the
        tokenizer cannot be looked into."""
        parts = (self._plain, self._with_tools, repr(sorted(self._special_tokens.items())))
        dated = "strftime_now" in self._plain + self._with_tools
        day = self._today.isoformat() if dated else ""
        whole = "\0".join((*parts, day, self.encoder.identity()))
        return sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()

    def prompt_ids(self, messages: Sequence[Message], tools: list[Any] | None = None) -> list[int]:
        """What a model is given so that it answers `messages`. Raises RenderError."""
        return self.encoder.ids(self.read(messages, tools).text(prompt=True))

    def read(self, messages: Sequence[Message], tools: list[Any] | None = None) -> "Conversation":
        """The messages in the first form that the template renders without losing words.

        Templates disagree on how a turn without content is told, on whether the arguments of a
        call are text, on whether content is a list of parts, and on whether there is a system
        message at all. Raises RenderError, with the template's own complaint, when no form does.
        """
        source = self._source(tools)
        adopted = [self._adopt(message) for message in messages]
        if "tool_calls" not in source and any("tool_calls" in message for message in adopted):
            raise RenderError("it does not know tool calls")
        shown = self.encoder.quote(tools) if tools else None
        words = _words(adopted)
        complaint = ""
        for form in _forms(adopted):
            chat = self._conversation(form, adopted, shown)
            try:
                text = _squeezed(chat.text())
            except Unbounded:
                raise
            except RenderError as error:
                complaint = complaint or str(error)
                continue
            if all(word in text for word in words):
                return self._unforged(chat, form, messages, tools)
        raise RenderError(complaint or "it loses words of the assistant or the system")

    def _unforged(
        self,
        chat: "Conversation",
        form: "_Form",
        messages: Sequence[Message],
        tools: list[Any] | None,
    ) -> "Conversation":
        """The chat; where its template makes control tokens of what people typed, with all that
        broken of which it might. Raises RenderError where it then takes it no more."""
        if not self.encoder.suspects([messages, tools]):
            return chat
        adopted = [self._adopt(message, wary=True) for message in messages]
        shown = self.encoder.quote(tools, wary=True) if tools else None
        careful = self._conversation(form, adopted, shown)
        controls = self.encoder.controls
        return chat if controls(chat.text()) == controls(careful.text()) else careful

    def render(
        self, messages: list[Message], tools: list[Any] | None, *, prompt: bool, thinking: bool
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text, and the character spans that the template tags as generated.

        Raises RenderError with the template's own complaint.
        """
        source = self._source(tools)
        tagged = _TAG.search(source) is not None
        try:
            with (
                _TRACKING if tagged else nullcontext(),
                allowing([messages, tools]),
                on(self._today),
            ):
                texts, spans = chat_template_utils.render_jinja_template(
                    conversations=[messages],
                    tools=tools,
                    chat_template=source,
                    return_assistant_tokens_mask=tagged,
                    add_generation_prompt=prompt,
                    enable_thinking=thinking,
                    thinking=thinking,
                    **self._special_tokens,
                )
        except Costly as error:
            raise Unbounded(str(error)) from error
        except _TEMPLATE_FAULTS as error:
            complaint = str(error) or type(error).__name__
            raise RenderError(complaint.replace(BREAK, "")[:_COMPLAINT_CHARACTERS]) from error
        return texts[0], spans[0] if spans else []

    def _source(self, tools: list[Any] | None) -> str:
        return self._with_tools if tools else self._plain

    def _adopt(self, message: Message, *, wary: bool = False) -> Message:
        """A message with its control tokens broken, and a role that the template knows."""
        role = message["role"]
        if role == "function":
            role = "tool"
        if role == "developer" and "developer" not in self._plain:
            role = "system"
        given = {key: value for key, value in message.items() if value is not None}
        quoted: Message = self.encoder.quote(given, assistant=role == "assistant", wary=wary)
        return {**quoted, "role": role}

    def _conversation(
        self, form: "_Form", messages: list[Message], tools: list[Any] | None
    ) -> "Conversation":
        told = form.apply(messages)
        warnings = set()
        if form.folded:
            warnings.add("system_folded")
        if tools and "tools" not in self._source(tools):
            warnings.add("tools_ignored")
        return Conversation(
            template=self,
            messages=told,
            tools=tools,
            thinking=_thinks(messages),
            dropped=len(messages) - len(told),
            warnings=frozenset(warnings),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Messages in a form that their template renders faithfully. Texts hold BREAKs.

    `dropped` counts the leading messages that became part of the next one. `thinking` asks a
    reasoning model for thoughts. `warnings` are codes: "system_folded", "tools_ignored".
    """

    template: ChatTemplate
    messages: list[Message]
    tools: list[Any] | None
    thinking: bool
    dropped: int
    warnings: frozenset[str]
    _known: dict[tuple[int, bool], tuple[str, list[tuple[int, int]]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )  # masks asks for the same renderings on several rungs, and rendering is the dearest part

    def text(self, count: int | None = None, *, prompt: bool = False) -> str:
        """The first `count` messages (None: all); with `prompt`, up to where an answer begins."""
        return self._rendered(count, prompt)[0]

    def tagged(self) -> tuple[str, list[tuple[int, int]]]:
        """The whole text, and the character spans that the template tags as generated."""
        return self._rendered(None, prompt=False)

    def _rendered(self, count: int | None, prompt: bool) -> tuple[str, list[tuple[int, int]]]:
        messages = self.messages[:count]
        key = (len(messages), prompt)
        if key not in self._known:
            self._known[key] = self.template.render(
                messages, self.tools, prompt=prompt, thinking=self.thinking
            )
        return self._known[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """One of the ways in which templates expect to be told the same messages."""

    parts: bool  # content is a list of typed parts
    folded: bool  # the system's words open the first user message
    text_arguments: bool  # the arguments of a call are JSON text, not an object
    silence: Message  # what a turn without content says of it

    def apply(self, messages: list[Message]) -> list[Message]:
        told = [{**self.silence, **message} for message in messages]
        if self.text_arguments:
            told = [_with_text_arguments(message) for message in told]
        if self.folded:
            told = _fold(told)
        return [_in_parts(message) for message in told] if self.parts else told


_SILENCES: tuple[Message, ...] = ({}, {"content": None}, {"content": ""})


def _forms(messages: list[Message]) -> Iterator[_Form]:
    """The forms worth trying, the usual one first."""
    system = messages[:1] and messages[0]["role"] == "system"
    calls = any("tool_calls" in message for message in messages)
    silent = any("content" not in message for message in messages)
    for parts, folded, text_arguments, silence in product(
        (False, True),
        (False, True) if system else (False,),
        (False, True) if calls else (False,),
        _SILENCES if silent else _SILENCES[:1],
    ):
        yield _Form(parts=parts, folded=folded, text_arguments=text_arguments, silence=silence)


def _fold(messages: list[Message]) -> list[Message]:
    leading = list(takewhile(lambda message: message["role"] == "system", messages))
    rest = messages[len(leading) :]
    system = "\n\n".join(message["content"] for message in leading)
    if rest and rest[0]["role"] == "user":
        return [{**rest[0], "content": f"{system}\n\n{rest[0]['content']}"}, *rest[1:]]
    return [{"role": "user", "content": system}, *rest]


def _in_parts(message: Message) -> Message:
    if not message.get("content"):
        return message
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def _with_text_arguments(message: Message) -> Message:
    if "tool_calls" not in message:
        return message
    return {**message, "tool_calls": [_with_text(call) for call in message["tool_calls"]]}


def _with_text(call: dict[str, Any]) -> dict[str, Any]:
    arguments = call["function"]["arguments"]
    if isinstance(arguments, str):
        return call
    text = json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**call["function"], "arguments": text}}


def _words(messages: list[Message]) -> list[str]:
    """What a rendering must contain: the system's and the assistant's words, and called names.

    Templates may leave out earlier thoughts, and may change white space.
    """
    words = []
    for message in messages:
        if message["role"] in ("assistant", "system"):
            said = message.get("content", "").rsplit(END_OF_THOUGHT, 1)[-1]
            words.append(_squeezed(said))
            words += [_squeezed(call["function"]["name"]) for call in message.get("tool_calls", ())]
    return words


def _thinks(messages: list[Message]) -> bool:
    """Reasoning models are asked to think only where the data shows them how."""
    return any(
        message["role"] == "assistant" and END_OF_THOUGHT in message.get("content", "")
        for message in messages
    )


def _squeezed(text: str) -> str:
    return "".join(text.replace(BREAK, "").split())
