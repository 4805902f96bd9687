"""How it is said that something must hold, now or in a while, and that it does not."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 120.0  # for whatever must come true once the faults are over: others use this machine
LOOK_S = 0.04


class Violation(Exception):
    """Something that must hold and does not."""


def expect(holds: object, what: str, *found: object) -> None:
    """Raises Violation with what was expected and what was found in its place."""
    if not holds:
        raise Violation(f"expected: {what}\nfound: {', '.join(map(repr, found)) or 'otherwise'}")


def until(
    condition: Callable[[], T],
    what: str,
    explain: Callable[[], str] = str,
    timeout_s: float = PATIENCE_S,
) -> T:
    """Look until it is true; returns what it gave. Raises Violation when it never is."""
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise Violation(f"expected within {timeout_s:.0f} s: {what}\n{explain()}")
        time.sleep(LOOK_S)
    return result
