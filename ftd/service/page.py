"""One page of a listing, and how many rows a client may have of it."""

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    data: tuple[T, ...]
    has_more: bool


def clamp(limit: int | None, default: int, most: int) -> int:
    """OpenAI's clients send limit=0 and mean none: 0 and None are the default, more than `most`
    is `most`, and a negative one is the default too."""
    if limit is None or limit <= 0:
        return min(default, most)
    return min(limit, most)


def cut(rows: tuple[T, ...], limit: int) -> Page[T]:
    """A page of rows that were asked for with limit + 1."""
    return Page(data=rows[:limit], has_more=len(rows) > limit)
