"""Tables that fit the terminal without losing a word: what has no room beside goes below.

The columns that do not fit stand on lines of their own under each row, indented, and so do their
titles. Cells are never cut, and only the last column wraps, between words: ids can be copied from
a terminal of any width. A cell that is wider than the terminal is left for the terminal to wrap.
"""

import sys
from collections.abc import Iterator, Sequence
from itertools import chain

from rich.cells import cell_len
from rich.text import Text

GAP = 2
INDENT = 4
LEAST = 24  # the room in which words may wrap
LONGEST = 40  # a longer word sticks out of the last column

STYLES = {
    "running": "cyan",
    "succeeded": "green",
    "processed": "green",
    "failed": "red",
    "error": "red",
    "warn": "yellow",
    "cancelled": "yellow",
    "paused": "yellow",
}


def lay_out(
    titles: Sequence[str], rows: Sequence[Sequence[str]], width: int | None
) -> Iterator[Text]:
    """The lines of a table, its titles first; without a `width` each row has one line."""
    head = [Text(title, style="bold") for title in titles]
    body = [[Text(cell, style=STYLES.get(cell, "")) for cell in row] for row in rows]
    grid = _Grid([head, *body], sys.maxsize if width is None else width)
    return chain.from_iterable(map(grid.lines, [head, *body]))


class _Grid:
    """The columns that fit side by side, and below them a grid of those that do not."""

    def __init__(self, rows: Sequence[Sequence[Text]], width: int) -> None:
        columns = list(zip(*rows, strict=True))
        widths = [max(cell.cell_len for cell in column) for column in columns]
        count = _fitting(widths, _least(columns[-1]), width)
        self._widths = widths[:count]
        self._room = max(width - _taken(widths[: count - 1]), LEAST)
        self._below: _Grid | None = None
        if any(cell for row in rows[1:] for cell in row[count:]):
            self._below = _Grid([row[count:] for row in rows], width - INDENT)

    def lines(self, row: Sequence[Text]) -> Iterator[Text]:
        """One row: a line, those that its last cell wraps into, and what stands below."""
        count = len(self._widths)
        start, last = Text(), row[count - 1]
        for cell, width in zip(row[: count - 1], self._widths, strict=False):
            start.append_text(cell).append(" " * (width - cell.cell_len + GAP))
        first, *others = _wrapped(last, self._room) if count == len(row) else [last]
        line = start.append_text(first)
        line.rstrip()
        yield line
        for line in others:
            yield Text(" " * _taken(self._widths[:-1])).append_text(line)
        if self._below is not None and any(row[count:]):
            for line in self._below.lines(row[count:]):
                if line:
                    yield Text(" " * INDENT).append_text(line)


def _fitting(widths: Sequence[int], least: int, width: int) -> int:
    """How many columns stand side by side; the last of all may shrink to `least`."""
    if _taken(widths[:-1]) + least <= width:
        return len(widths)
    fits = (n for n in range(len(widths) - 1, 0, -1) if _taken(widths[:n]) - GAP <= width)
    return next(fits, 1)


def _taken(widths: Sequence[int]) -> int:
    """With the gap after each."""
    return sum(widths) + GAP * len(widths)


def _least(column: Sequence[Text]) -> int:
    """The room that a last column wants: of its longest word, within reason."""
    words = (word for cell in column for word in cell.plain.split(" "))
    longest = min(max(map(cell_len, words)), LONGEST)
    return min(max(cell.cell_len for cell in column), max(longest, LEAST))


def _wrapped(cell: Text, width: int) -> list[Text]:
    """Lines of whole words."""
    lines: list[str] = []
    for word in cell.plain.rstrip().split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and cell_len(longer) > width:
            lines.append(word)
        else:
            lines[-1:] = [longer]
    return [Text(line, style=cell.style) for line in lines]
