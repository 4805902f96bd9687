"""How models write calls of functions into their text, and how the calls are read out of it.

A model calls a function by writing in the form that its makers taught it. These are read, with one
object or an array of them wherever an object stands:

    Hermes, Qwen    <tool_call> {"name": "f", "arguments": {...}} </tool_call>
    Granite, Phi    <|tool_call|>[{"name": "f", "arguments": {...}}]<|/tool_call|>
    Llama 3         <|python_tag|>{"name": "f", "parameters": {...}}; {...}
    Mistral         [TOOL_CALLS] [{"name": "f", "arguments": {...}}]
    Mistral, later  [TOOL_CALLS]f[ARGS]{...}
    plain           {"name": "f", "parameters": {...}}       where the answer begins with it

What is not a call of a known function in one of these forms is text, and stays as it is.
"""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

# Written by models before and behind calls; many are special tokens of their tokenizers.
OPENERS: Final = ("<tool_call>", "<|tool_call|>", "<|python_tag|>", "[TOOL_CALLS]")
CLOSERS: Final = ("</tool_call>", "<|/tool_call|>")
MARKS: Final = (*OPENERS, *CLOSERS, "[ARGS]", "[CALL_ID]")

_MISTRAL = "[TOOL_CALLS]"
_OPENER = re.compile("|".join(map(re.escape, OPENERS)))
_CLOSER = re.compile("|".join(map(re.escape, CLOSERS)))
# Between a later Mistral's opener and its arguments.
_NAMED = re.compile(r"\s*(?P<name>[^\s\[\]{}<>]+)\s*(\[CALL_ID\][^\[\]{}]*)?(\[ARGS\])?\s*")
_UNNAMED_HEAD = 256  # characters in which a name must have ended
# What a plain object that is a call can begin with; anything else is an answer in JSON.
_PLAIN_KEYS: Final = ("name", "arguments", "parameters", "function", "type", "id")
_PLAIN = re.compile(r'\s*(\[\s*)?(\{\s*("(?P<key>[^"]*)(?P<end>")?)?)?')
_BETWEEN = " \t\r\n;,"  # plain calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How one model is to write a call: `before`, its name and arguments, `after`.

    Name and arguments are an object, in which `key` holds the arguments; `named` ones are written
    as the name, [ARGS] and the arguments. Further calls follow `between`, or cannot follow (None).
    """

    before: str = ""
    after: str = ""
    between: str | None = None
    key: str = "arguments"
    named: bool = False


def form_of(template: str) -> Form:
    """The form that a chat template writes calls in."""
    if "<tool_call>" in template:
        return Form(before="<tool_call>\n", after="\n</tool_call>", between="\n")
    if "<|tool_call|>" in template:
        return Form(before="<|tool_call|>[", after="]")
    if _MISTRAL in template and "[ARGS]" in template:
        return Form(before=_MISTRAL, between="", named=True)
    if _MISTRAL in template:
        return Form(before=_MISTRAL + " [", after="]")
    return Form(key="parameters" if '"parameters"' in template else "arguments")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call as the model wrote it; `arguments` is JSON text."""

    name: str
    arguments: str


class CallReader:
    """Reads text as it comes; text that may belong to a call is held back until that is known.

    Only calls of the functions named are calls. White space around calls is dropped.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        self._buffer = ""
        self._opener: str | None = None  # of the call under way; "" for a plain one
        self._gap = ""  # white space before it
        self._value: _Value | None = None
        self._plain = True  # a plain call may begin here
        self._called = False  # a call stands directly before the buffer

    @property
    def held(self) -> int:
        """Characters that were pushed and not yet told."""
        return len(self._gap) + len(self._opener or "") + len(self._buffer)

    def push(self, text: str) -> list[str | Call]:
        """What is certain now: text and calls, in order."""
        self._buffer += text
        return self._read()

    def end(self) -> list[str | Call]:
        """What was held back: nothing more comes."""
        found: list[str | Call] = []
        while self._opener is not None:
            found += self._give_up()
            found += self._read()
        if not (self._called and self._is_between()):
            found.append(self._buffer)
        self._buffer = ""
        return _joined(found)

    def _read(self) -> list[str | Call]:
        found: list[str | Call] = []
        while (more := self._in_text() if self._opener is None else self._in_call()) is not None:
            found += more
        return _joined(found)

    def _in_text(self) -> list[str | Call] | None:
        """A step further while no call is under way; None when more text is needed."""
        if self._called:
            self._skip_between()
            if self._is_between():
                return None
        opener = _OPENER.search(self._buffer)
        if self._plain and (opener is None or self._buffer[: opener.start()].strip()):
            match _plainness(self._buffer):
                case None:
                    return None
                case True:
                    self._begin("", 0)
                    return []
        self._plain = False
        if opener is not None:
            before = self._buffer[: opener.start()]
            self._begin(opener[0], opener.end())
            said = before.rstrip()
            self._gap = before[len(said) :]
            return [said]
        certain = len(self._buffer) - _uncertain(self._buffer)
        if not certain:
            return None
        text, self._buffer = self._buffer[:certain], self._buffer[certain:]
        self._called = False
        return [text]

    def _begin(self, opener: str, at: int) -> None:
        self._opener, self._buffer, self._value = opener, self._buffer[at:], None
        self._plain = False

    def _skip_between(self) -> None:
        """Drop what separates calls, and a closer."""
        self._buffer = self._buffer.lstrip()
        if closer := _CLOSER.match(self._buffer):
            self._buffer = self._buffer[closer.end() :].lstrip()
        if self._plain and self._buffer.lstrip(_BETWEEN).startswith(("{", "[")):
            self._buffer = self._buffer.lstrip(_BETWEEN)

    def _is_between(self) -> bool:
        """Whether what stands behind a call may yet turn out to be a closer or a separator."""
        rest = self._buffer.strip(_BETWEEN if self._plain else None)
        return any(closer.startswith(rest) for closer in CLOSERS)

    def _in_call(self) -> list[str | Call] | None:
        """A step further within a call; None when more text is needed."""
        if self._value is None:
            start = self._head()
            if start is None:
                return None
            if start < 0:
                return self._give_up()
            self._value = _Value(start)
        end = self._value.end(self._buffer)
        if end is None:
            return None
        calls = self._calls(
            self._buffer[: self._value.start], self._buffer[self._value.start : end]
        )
        if not calls:
            return self._give_up()
        # Plain calls and those of Llama may be followed by more without an opener.
        self._plain = self._opener in ("", "<|python_tag|>")
        self._opener, self._gap, self._value, self._called = None, "", None, True
        self._buffer = self._buffer[end:]
        return list(calls)

    def _head(self) -> int | None:
        """Where the JSON begins; None when that is not known yet, -1 when it never does."""
        text = self._buffer
        if not text.strip():
            return None
        at = len(text) - len(text.lstrip())
        if text[at] in "{[":
            return at
        if self._opener != _MISTRAL:
            return -1
        named = _NAMED.match(text)
        if named is not None and text[named.end() : named.end() + 1] == "{":
            return named.end()
        return None if "{" not in text and len(text) < _UNNAMED_HEAD else -1

    def _calls(self, head: str, value: str) -> list[Call]:
        """The calls that a whole value makes; none when it is anything else."""
        try:
            read = json.loads(value, parse_constant=_no_number)
        except (ValueError, RecursionError):
            return []
        named = _NAMED.fullmatch(head)
        if named is not None:
            read = {"name": named["name"], "arguments": read}
        calls = [_call(item) for item in (read if isinstance(read, list) else [read])]
        if not all(call is not None and call.name in self._names for call in calls):
            return []
        return [call for call in calls if call is not None]

    def _give_up(self) -> list[str | Call]:
        """The opener was text after all; what stands behind it is read anew."""
        opener, self._opener, self._value = self._opener, None, None
        gap, self._gap = self._gap, ""
        self._plain = False
        self._called = False
        if opener:
            return [gap + opener]
        begun = len(self._buffer) - len(self._buffer.lstrip()) + 1  # behind its first bracket
        text, self._buffer = self._buffer[:begun], self._buffer[begun:]
        return [text]


class _Value:
    """Finds the end of a JSON object or array in a growing text, each character looked at once."""

    def __init__(self, start: int) -> None:
        self.start = start
        self._at = start
        self._depth = 0
        self._quoted = False

    def end(self, text: str) -> int | None:
        """The index behind the value, or None while it is not complete."""
        while self._at < len(text):
            letter = text[self._at]
            if self._quoted and letter == "\\":
                if self._at + 1 == len(text):
                    return None  # what is escaped is not there yet
                self._at += 1
            elif letter == '"':
                self._quoted = not self._quoted
            elif not self._quoted and letter in "{[":
                self._depth += 1
            elif not self._quoted and letter in "}]":
                self._depth -= 1
            self._at += 1
            if not self._depth:
                return self._at
        return None


def _call(item: Any) -> Call | None:
    """The call that an object makes, whatever its keys are called."""
    if isinstance(item, dict) and isinstance(item.get("function"), dict):
        item = item["function"]  # in OpenAI's form
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        return None
    for key in ("arguments", "parameters"):
        if key in item:
            return _with(item["name"], item[key])
    return _with(item["name"], {})


def _with(name: str, arguments: Any) -> Call | None:
    if isinstance(arguments, str):  # JSON text, written as a string
        return Call(name=name, arguments=arguments) if _is_unicode(arguments) else None
    if not isinstance(arguments, dict | None):
        return None
    text = json.dumps(arguments or {}, ensure_ascii=False)
    # Half a surrogate pair is JSON only as an escape.
    return Call(name=name, arguments=text if _is_unicode(text) else json.dumps(arguments))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _no_number(name: str) -> None:
    """NaN and the infinities are Python's, and no JSON."""
    raise ValueError(name)


def _plainness(text: str) -> bool | None:
    """Whether text begins like a plain call; None while it is too short to tell."""
    if not text.strip():
        return None
    match = _PLAIN.match(text)
    assert match is not None, "every part of it is optional"
    if text.lstrip()[0] not in "{[":
        return False
    key = match["key"]
    if match["end"]:
        return key in _PLAIN_KEYS
    if match.end() < len(text):
        return False  # neither an object nor the beginning of one
    return None if key is None or any(known.startswith(key) for known in _PLAIN_KEYS) else False


def _uncertain(text: str) -> int:
    """How many characters at the end may belong to an opener, or be white space before one."""
    for length in range(min(len(text), max(map(len, OPENERS)) - 1), 0, -1):
        if any(opener.startswith(text[-length:]) for opener in OPENERS):
            rest = text[:-length]
            return length + len(rest) - len(rest.rstrip())
    return len(text) - len(text.rstrip())


def _joined(found: list[str | Call]) -> list[str | Call]:
    """Neighbouring texts as one, empty ones left out."""
    joined: list[str | Call] = []
    for each in found:
        if isinstance(each, str) and joined and isinstance(joined[-1], str):
            joined[-1] += each
        elif each:
            joined.append(each)
    return joined
