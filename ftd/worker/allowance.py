"""What rendering a chat template may cost: one sum of units, and a time.

A template comes with a model and is anybody's program. Whatever it does is paid for, a unit for
each character that it makes, more for an object, a turn of a loop, a call. ftd.worker.pricing is
where it pays. Between two payments only work is done that grows with what was paid for.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf
from typing import Any

from jinja2 import Undefined

# Far above what the templates of real models take: a few units for each character they are given.
# A character has up to four bytes, so the first is at most 128 MiB.
LEAST_UNITS = 2**25
UNITS_PER_CHARACTER = 32
MAX_SECONDS = 10.0  # of a core, not of a clock: a busy machine refuses nothing

_STEP = 16  # units: a turn, a call, a filter, an operator, a piece of output
REFERENCE = 8
OBJECT = 64
_STEPS_PER_LOOK = 64  # at the clock
_MAX_BITS = 4096  # of an integer


class Costly(ValueError):
    """The template would cost more than the messages that it was given justify."""


class _Allowance:
    """What is left for one rendering, in one thread."""

    def __init__(self, units: float, until_s: float) -> None:
        self._units = units
        self._until_s = until_s
        self._steps = 0

    def pay(self, units: int) -> None:
        self._units -= units
        if self._units < 0:
            raise Costly("it does far more than the messages need")

    def step(self) -> None:
        self.pay(_STEP)
        self._steps += 1
        if self._steps % _STEPS_PER_LOOK == 0 and time.thread_time() > self._until_s:
            raise Costly(f"it takes more than {MAX_SECONDS:g} s")


# Outside of `allowing`, where a library renders by itself, nothing is asked.
_current: ContextVar[_Allowance] = ContextVar("allowance", default=_Allowance(inf, inf))  # noqa: B039


@contextmanager
def allowing(given: object) -> Iterator[None]:
    """Let what is compiled and rendered inside cost what `given`, plain data, justifies.

    Raises Costly in there. One inside another starts anew.
    """
    justified = UNITS_PER_CHARACTER * sum(_sizes(given, node=REFERENCE))
    allowance = _Allowance(LEAST_UNITS + justified, time.thread_time() + MAX_SECONDS)
    before = _current.set(allowance)
    try:
        yield
    finally:
        _current.reset(before)


def step() -> None:
    """Pay for one turn, call, filter or operator, whatever it does."""
    _current.get().step()


def pay(units: int) -> None:
    _current.get().pay(units)


def made(value: Any) -> Any:
    """Pay for a value whose parts are somebody else's."""
    if isinstance(value, str):
        pay(len(value))
    elif isinstance(value, list | tuple | dict):
        pay(REFERENCE * len(value))
    elif isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise Costly("it makes a number without end")
    return value


def built(value: Any) -> Any:
    """Pay for a value as if all of it were new: a list of one list twice doubles what it prints."""
    if isinstance(value, list | tuple | dict):
        pay_whole(value)
        return value
    return made(value)


def pay_whole(value: Any, *, times: int = 1, indent: int = 0) -> None:
    for units in _sizes(value, indent=indent):
        pay(times * units)


def _sizes(value: Any, *, node: int = OBJECT, indent: int = 0) -> Iterator[int]:
    """The units of plain data, part by part, as long as they are asked for; each part is indented
    by so much a level."""
    waiting = [(value, 1)]
    while waiting:
        each, depth = waiting.pop()
        if isinstance(each, str):
            yield len(each)
        elif isinstance(each, dict):
            yield 2 * len(each) * (node + depth * indent)
            waiting += [(part, depth + 1) for pair in each.items() for part in pair]
        elif isinstance(each, list | tuple):
            yield len(each) * (node + depth * indent)
            waiting += [(part, depth + 1) for part in each]
        elif not isinstance(each, int | float | None | Undefined):
            raise Costly(f"it puts a {type(each).__name__} into a list")


def turns(values: Any) -> Iterator[Any]:
    for value in values:
        step()
        yield value


def drawn(values: Iterator[Any]) -> Iterator[Any]:
    """What a lazy filter gives, which may be the same large thing time and again."""
    for value in turns(values):
        yield built(value)
