"""Answers that follow a grammar: JSON, JSON of a schema, calls of functions.

Before each token the grammar says which tokens may stand there, so that whatever is drawn fits.
The work is llguidance's, which refuses a schema with keywords that it cannot enforce; a refusal is
passed on, because an answer that only looks as if it had been checked is worse.
"""

import json
import re
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeGuard

import numpy
import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from ftd.core.chat import Constraint, Conversation, Prompt
from ftd.core.errors import FtdError, invalid
from ftd.core.toolcalls import Form

_REASON_CHARACTERS = 300
_PLACE = re.compile(r"\Aat \d+\(\d+\): (failed to compile JSON schema: )?")  # in our own rules
# Between two parts of JSON: nothing, a space, or a line's end and its indent. A model that is not
# sure what to say would else write white space for ever.
_BLANK: Final = r"( |\n[ \t]{0,40})?"
_SCHEMA: Final = {"whitespace_pattern": _BLANK, "lenient": False}
# Of a function's parameters we take what can be enforced, unless it says that it is strict.
_PARAMETERS: Final = {"whitespace_pattern": _BLANK, "lenient": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A grammar that an answer must follow, and the param of the request that it comes from."""

    text: str
    param: str


class Grammars:
    """Writes and compiles grammars for one model. Threads may share it.

    Calls are written in `form`; `marks` are the texts in it that are special tokens.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        size: int,
        ends: Collection[int],
        form: Form,
        marks: Mapping[str, int],
    ) -> None:
        self._tokenizer = tokenizer
        self._size = size
        self._ends = sorted(ends)
        self._calls = _Calls(form, marks)
        self._building = threading.Lock()

    def wanted(self, prompt: Prompt, constraint: Constraint | None) -> Wanted | None:
        """The grammar of an answer; None where it is free.

        A call that is required rules out any other answer. One that is merely possible stands
        beside the constrained answer; without a constraint it needs no grammar.
        """
        calling = prompt if _may_call(prompt) else None
        if calling is not None and calling.tool_choice != "auto":
            choice = calling.tool_choice
            called = [
                tool for tool in calling.tools if choice in ("required", tool["function"]["name"])
            ]
            several = calling.parallel_tool_calls and choice == "required"
            rules = {"start": "calls"} | self._calls.rules(called, several)
            return Wanted(text=_lark(rules), param="tools")
        if constraint is None:
            return None
        schema = {"type": "object"} if constraint.json_schema is None else constraint.json_schema
        rules = {"start": "answer", "answer": _json(schema, _SCHEMA)}
        if calling is not None:
            rules |= self._calls.rules(calling.tools, calling.parallel_tool_calls)
            rules["start"] = "calls | answer"
        return Wanted(text=_lark(rules), param="response_format")

    def compile(self, wanted: Wanted) -> LLMatcher:
        """A matcher at the grammar's beginning; each choice needs a copy. Raises FtdError for a
        grammar that is invalid, cannot be enforced, or is too large."""
        with self._building:
            known = self._known
        matcher = LLMatcher(known, wanted.text, log_level=0)
        if matcher.is_error():
            raise _refused(matcher, wanted.param)
        return matcher

    @cached_property
    def _known(self) -> LLTokenizer:
        """The tokenizer as llguidance knows it; a second's work, for the first who needs it."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise invalid(
                "Answers of this model cannot be constrained: its tokenizer is of an old kind.",
                param="response_format",
            )
        return LLTokenizer(backend.to_str(), n_vocab=self._size, eos_token=self._ends or None)


class Guide:
    """One answer on its way through a grammar."""

    def __init__(self, matcher: LLMatcher, param: str) -> None:
        self._matcher = matcher
        self._param = param

    def allowed(self, size: int) -> Tensor:
        """Which of the tokens below `size` may come next, as bools. Raises FtdError when the
        grammar has become too complex to say."""
        packed = numpy.frombuffer(self._matcher.compute_bitmask(), dtype=numpy.uint8)
        self._check()
        allowed = numpy.zeros(size, dtype=bool)
        bits = numpy.unpackbits(packed, bitorder="little")[:size]
        allowed[: len(bits)] = bits
        return torch.from_numpy(allowed)

    def take(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._check()

    @property
    def complete(self) -> bool:
        """Whether nothing more can follow."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise _refused(self._matcher, self._param)


def _may_call(prompt: Prompt) -> TypeGuard[Conversation]:
    return isinstance(prompt, Conversation) and bool(prompt.tools) and prompt.tool_choice != "none"


def _refused(matcher: LLMatcher, param: str) -> FtdError:
    reason = _PLACE.sub("", matcher.get_error()).partition("\n")[0][:_REASON_CHARACTERS]
    return invalid(
        f"Invalid schema for '{param}': {reason}", code="invalid_json_schema", param=param
    )


class _Calls:
    """Grammar rules for calls of functions in one model's form."""

    def __init__(self, form: Form, marks: Mapping[str, int]) -> None:
        self._form = form
        self._marks = marks
        self._parts = re.compile(f"({'|'.join(map(re.escape, marks))})") if marks else None

    def rules(self, tools: Sequence[Mapping[str, Any]], several: bool) -> dict[str, str]:
        """Rules for `calls` of these tools, one or (where the form has a way) several."""
        form = self._form
        rules = {
            "calls": "call",
            "call": f"{self._text(form.before)} body {self._text(form.after)}",
            "body": " | ".join(f"tool_{index}" for index in range(len(tools))),
        }
        if several and form.between is not None:
            rules["calls"] = f"call ({self._text(form.between)} call)*"
        for index, tool in enumerate(tools):
            function = tool["function"]
            name = function["name"]
            if form.named:
                head, tail = f"{name}[ARGS]", ""
            else:
                name = json.dumps(name, ensure_ascii=False)
                head, tail = f'{{"name": {name}, "{form.key}": ', "}"
            parameters = function.get("parameters") or {"type": "object"}
            rules[f"tool_{index}"] = f"{self._text(head)} arguments_{index} {self._text(tail)}"
            how = _SCHEMA if function.get("strict") else _PARAMETERS
            rules[f"arguments_{index}"] = _json(parameters, how)
        return rules

    def _text(self, text: str) -> str:
        """Text as a grammar writes it, special tokens by their ids."""
        parts = self._parts.split(text) if self._parts else [text]
        written = [
            f"<[{self._marks[part]}]>" if part in self._marks else json.dumps(part)
            for part in parts
            if part
        ]
        return " ".join(written) or '""'


def _json(schema: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    given = schema.get("x-guidance")
    settled = {**(given if isinstance(given, dict) else {}), **options}
    try:
        return "%json " + json.dumps({**schema, "x-guidance": settled})
    except RecursionError:
        raise invalid("The JSON schema is nested too deeply.", code="invalid_json_schema") from None


def _lark(rules: Mapping[str, str]) -> str:
    lines = [f"{name}: {body}" for name, body in rules.items()]
    return "\n".join(["%llguidance {}", *lines, ""])
