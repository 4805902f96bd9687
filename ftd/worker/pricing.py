"""Jinja's sandbox, which stops escapes, made to stop bombs too: everything is paid for.

What makes much out of little (`'x' * 10**9`, a width, a separator, a power) is measured before it
is done. What is made of what is there is paid for when it is made: a text that doubles forty times
ends the rendering at the twentieth. Filters and methods that no chat needs are not there.

    for, macro, filter, +, ~, {{ }}   a step each; then by size what comes of it
    [x, x], {"a": x}                  as if all of it were new
    ==, in                            nothing, and the limit of time is what they meet

Not covered: one comparison, and the tokenizer, which comes after.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import date, datetime
from functools import wraps
from typing import Any

from jinja2 import Template, nodes, pass_context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from ftd.worker.allowance import (
    OBJECT,
    REFERENCE,
    Costly,
    built,
    drawn,
    made,
    pay,
    pay_whole,
    step,
    turns,
)

_MAX_WIDTH = 999  # of padding, a separator, an indentation, decimals
_MAX_PATTERN = 1000  # characters of what is formatted
_MAX_BITS = 4096  # of a power
_MAX_KEYS = 1000  # of an object: numbers can be chosen so that each one looks at all others
_MAX_FORMAT = 100  # characters of how a date is written; C pads it to some hundred times as many
_COMPARED = 64  # characters that a search from the end compares for a unit

# A width of four digits or more, in whatever script, one that is an argument, or one within
# another.
_WIDE = re.compile(r"%(?:\([^)]*\))?[^a-zA-Z%]*(?:\d{4}|\*)|\{[^}]*(?:\d{4}|\{)")

_FILTERS = frozenset(
    {
        *("abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first"),
        *("float", "forceescape", "format", "groupby", "indent", "int", "items", "join", "last"),
        *("length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace"),
        *("reverse", "round", "safe", "select", "selectattr", "sort", "string", "title", "tojson"),
        *("trim", "truncate", "unique", "upper", "wordcount"),
    }
)
_METHODS = {
    str: frozenset(
        {
            *("capitalize", "casefold", "count", "endswith", "find", "format", "index", "join"),
            *("lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind"),
            *("rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith"),
            *("strip", "swapcase", "title", "upper"),
            *("isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "islower", "isnumeric"),
            *("isspace", "istitle", "isupper"),
        }
    ),
    bytes: frozenset(),
    int: frozenset(),
    float: frozenset({"is_integer"}),
    range: frozenset({"count", "index"}),
}
_GLOBALS = frozenset({"range", "dict", "cycler", "joiner", "namespace", "raise_exception"})

# The day of whoever renders; a library that renders by itself has today's.
_day: ContextVar[date | None] = ContextVar("day", default=None)


@contextmanager
def on(day: date) -> Iterator[None]:
    """What is rendered inside is told that it is this day."""
    before = _day.set(day)
    try:
        yield
    finally:
        _day.reset(before)


class Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which everything is paid for."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def from_string(self, source: Any, *args: Any, **kwargs: Any) -> Template:
        """The last that the maker of an environment calls: filters and globals are there."""
        self.filters = {name: _paid(name, self.filters[name]) for name in sorted(_FILTERS)}
        self.filters |= {"_concat": _concat, "_turns": turns, "_made": made, "_built": built}
        self.globals = {name: self.globals[name] for name in sorted(_GLOBALS & {*self.globals})}
        self.globals |= {"strftime_now": _strftime_now, "dict": _dict}
        self.finalize = _put_out
        return super().from_string(source, *args, **kwargs)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Priced().visit(super()._parse(source, name, filename))
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for kind, methods in _METHODS.items():
            if isinstance(obj, kind) and attr not in methods:
                return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        formatting = super().wrap_str_format(value)
        if formatting is None:
            return None

        def paid(*args: Any, **kwargs: Any) -> str:
            _before_format(value.__self__, *args, **kwargs)
            return formatting(*args, **kwargs)

        return paid

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        step()
        if check := _BEFORE_OPERATORS.get(operator):
            check(left, right)
        return made(super().call_binop(context, operator, left, right))

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        step()
        if obj is Namespace:
            _check_pairs(args)
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str) and (check := _BEFORE_METHODS.get(obj.__name__)):
            args = tuple(list(arg) if isinstance(arg, Iterator) else arg for arg in args)
            check(owner, *args)
        return built(super().call(context, obj, *args, **kwargs))


class _Priced(NodeTransformer):
    """Puts a payment around what no method of an environment is asked for."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - the visitor's name
        self.generic_visit(node)
        return _through("_concat", nodes.List(node.nodes, lineno=node.lineno))

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.iter = _through("_turns", node.iter)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _through("_made", node) if isinstance(node.arg, nodes.Slice) else node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:  # noqa: N802
        return nodes.Const(node.data, lineno=node.lineno)  # as data it is put out unseen

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _through("_built", node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        if len(node.items) > _MAX_KEYS:
            raise Costly("it has an object of too many keys")
        self.generic_visit(node)
        return _through("_built", node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _through("_built", node) if node.ctx == "load" else node


def _through(name: str, node: Any) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _paid(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is paid for; Jinja gives some their environment or context first.

    What is checked before is drawn before: what lazy filters give is paid for one by one.
    """
    check = _BEFORE_FILTERS.get(name)
    first = 1 if hasattr(work, "jinja_pass_arg") else 0

    @wraps(work)
    def paid(*args: Any, **kwargs: Any) -> Any:
        step()
        if check is not None:
            value, *others = args[first:]
            value = list(value) if isinstance(value, Iterator) else value
            check(value, *others, **kwargs)
            args = (*args[:first], value, *others)
        result = work(*args, **kwargs)
        return drawn(result) if isinstance(result, Iterator) else made(result)

    return paid


@pass_context  # or it would be called for constants, while the template is compiled
def _put_out(_: object, value: Any) -> Any:
    step()
    return built(value)


def _dict(*given: Any, **named: Any) -> dict[str, Any]:
    """In place of the class, which has methods of its own."""
    _check_pairs(given)
    return dict(*given, **named)


def _strftime_now(form: str) -> str:
    if len(form) > _MAX_FORMAT:
        raise Costly("it writes a date without end")
    return (_day.get() or datetime.now()).strftime(form)


def _concat(values: list[Any]) -> str:
    step()
    pay_whole(values)
    return "".join(map(str, values))


def _check_pattern(pattern: str) -> int:
    """How many values a pattern may show, and be it the same one."""
    if len(pattern) > _MAX_PATTERN or _WIDE.search(pattern):
        raise Costly("it pads without end")
    return pattern.count("%") + pattern.count("{")


def _check_width(width: object) -> int:
    wide = width if isinstance(width, int) else len(width) if isinstance(width, str) else 0
    if abs(wide) > _MAX_WIDTH:
        raise Costly("it pads without end")
    return wide


def _check_pairs(values: tuple[Any, ...]) -> None:
    """Keys of an object that is there already are paid for, and are no numbers by the thousand."""
    if not all(isinstance(value, dict) for value in values):
        raise Costly("it makes an object of a list")


def _before_product(left: Any, right: Any) -> None:
    for many, times in ((left, right), (right, left)):
        if isinstance(many, str | list | tuple) and isinstance(times, int):
            pay(REFERENCE * len(many) * max(0, times))


def _before_power(left: Any, right: Any) -> None:
    whole = isinstance(left, int) and isinstance(right, int)
    if whole and left.bit_length() * abs(right) > _MAX_BITS:
        raise Costly("it makes a number without end")


def _before_modulo(left: Any, right: Any) -> None:
    if isinstance(left, str):
        _before_format(left, right)


def _before_format(pattern: Any, *values: Any, **named: Any) -> None:
    pay_whole([*values, *named.values()], times=_check_pattern(str(pattern)))


def _before_replace(text: Any, old: Any, new: Any, *_: Any, **__: Any) -> None:
    text, old, new = str(text), str(old), str(new)
    pay(text.count(old) * len(new))


def _before_join(separator: Any, values: Any) -> None:
    if isinstance(values, list | tuple | dict):
        pay_whole(values)
    pay((len(str(separator)) + REFERENCE) * len(values))


def _before_join_filter(values: Any, d: Any = "", *_: Any, **__: Any) -> None:
    _before_join(d, values)


def _before_split(text: Any, *_: Any, **__: Any) -> None:
    """A short piece is an object none the less."""
    pay(REFERENCE * len(text))


def _before_search_back(text: Any, sought: Any = None, *_: Any, **__: Any) -> None:
    """From the end, what is sought is compared anew at each character; from the start it is not."""
    if isinstance(sought, str):
        pay(len(text) * len(sought) // _COMPARED)


def _before_split_back(text: Any, sought: Any = None, *_: Any, **__: Any) -> None:
    _before_split(text)
    _before_search_back(text, sought)


def _before_strip(_: Any, chars: Any = None) -> None:
    """Each character of the text is looked for among them."""
    _check_width(chars)


def _before_list(values: Any) -> None:
    if isinstance(values, str):
        pay(OBJECT * len(values))


def _before_whole(values: Any, *_: Any, **__: Any) -> None:
    """What a filter looks at in full, and perhaps copies to compare it."""
    if isinstance(values, list | tuple | dict):
        pay_whole(values)


def _before_group(values: Any, *_: Any, **__: Any) -> None:
    """A group is a pair and a list, and may be of one."""
    _before_whole(values)
    pay(2 * OBJECT * len(values))


def _before_text(value: Any) -> None:
    if isinstance(value, list | tuple | dict):
        pay_whole(value)


def _before_json(
    value: Any,
    ensure_ascii: Any = False,
    indent: Any = None,
    separators: Any = None,
    *_: Any,
    **__: Any,
) -> None:
    for separator in separators or ():
        _check_width(separator)
    pay_whole(value, times=6 if ensure_ascii else 1, indent=_check_width(indent))


def _before_indent(text: Any, width: Any = 4, *_: Any, **__: Any) -> None:
    lines = str(text).count("\n") + 1
    pay(lines * _check_width(width))


def _before_round(_: Any, precision: Any = 0, *__: Any, **___: Any) -> None:
    _check_width(precision)


_BEFORE_OPERATORS: dict[str, Callable[..., None]] = {
    "*": _before_product,
    "**": _before_power,
    "%": _before_modulo,
}
_BEFORE_METHODS: dict[str, Callable[..., None]] = {
    "replace": _before_replace,
    "join": _before_join,
    "split": _before_split,
    "rsplit": _before_split_back,
    "splitlines": _before_split,
    **dict.fromkeys(("strip", "lstrip", "rstrip"), _before_strip),
    **dict.fromkeys(("rfind", "rindex", "rpartition"), _before_search_back),
}
_BEFORE_FILTERS: dict[str, Callable[..., None]] = {
    "replace": _before_replace,
    "join": _before_join_filter,
    "list": _before_list,
    "trim": _before_strip,
    "indent": _before_indent,
    "tojson": _before_json,
    "string": _before_text,
    "round": _before_round,
    "format": _before_format,
    "groupby": _before_group,
    **dict.fromkeys(("sort", "dictsort", "unique", "min", "max"), _before_whole),
}
