"""A training file tokenised part by part: parts know nothing of each other, so any process may
take any of them, and together they are the same bytes whoever took which.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import jinja2
import numpy as np
import tokenizers
import transformers

from ftd.core import example, finding, jsonline, message, toolcalls, tools
from ftd.core.example import is_blank, parse_example
from ftd.worker import allowance, encoding, pricing, template
from ftd.worker.template import ChatTemplate, RenderError
from ftd.worker.train import columns, masks
from ftd.worker.train.columns import Part
from ftd.worker.train.masks import Encoded, Tokens, encode

# About a thousand short conversations: a third of a second.
PART_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What all parts of a file have in common."""

    path: Path
    template: ChatTemplate
    context_tokens: int
    part_bytes: int = PART_BYTES

    def parts(self) -> range:
        """Where each part begins."""
        return range(0, self.path.stat().st_size, self.part_bytes)


def maker() -> str:
    """A hash of the code that decides which tokens a file becomes: ours, and the libraries'."""
    hash_ = hashlib.sha256()
    for module in (
        example, finding, jsonline, message, toolcalls, tools, allowance, encoding, pricing,
        template, columns, masks,
    ):  # fmt: skip
        assert module.__file__ is not None
        hash_.update(Path(module.__file__).read_bytes())
    hash_.update(Path(__file__).read_bytes())
    for library in (transformers, tokenizers, jinja2):
        hash_.update(f"{library.__name__} {library.__version__}\n".encode())
    return hash_.hexdigest()


# As of the import: what may be on the disk later is not what runs here.
MAKER = maker()


def take(task: Task, start: int) -> Part:
    """Tokenise the lines that begin in the part at `start`.

    A row longer than the context loses its end. An example that is left without a trained token,
    or that the chat template refuses, is left out and counted.
    """
    ids: list[list[int]] = []
    weights: list[list[float]] = []
    widths: list[int] = []
    part = _empty()
    for line in _lines(task.path, start, start + task.part_bytes):
        part.lines += 1
        if is_blank(line):
            continue
        part.read += 1
        try:
            encoded = encode(task.template, parse_example(line))
        except RenderError as error:
            part.refused += 1
            part.refusal = part.refusal or (part.lines, str(error))
            continue
        rows = _fitted(encoded, task.context_tokens, part)
        if rows:
            ids += [row.ids for row in rows]
            weights += [row.weights for row in rows]
            widths.append(len(rows))
    part.lengths = np.asarray([len(row) for row in ids], np.int64)
    part.ids = np.fromiter(chain.from_iterable(ids), np.int32)
    part.weights = np.asarray(list(chain.from_iterable(weights)), np.float16)
    part.widths = np.asarray(widths, np.int64)
    return part


def _empty() -> Part:
    return Part(
        ids=np.empty(0, np.int32),
        weights=np.empty(0, np.float16),
        lengths=np.empty(0, np.int64),
        widths=np.empty(0, np.int64),
    )


def _lines(path: Path, start: int, end: int) -> Iterator[bytes]:
    """The lines that begin in [start, end)."""
    with path.open("rb") as file:
        at = start
        if start:  # behind the end of a line that begins before
            at = file.seek(start - 1)
            while at < end and (piece := file.readline(end - at)):
                at += len(piece)
                if piece.endswith(b"\n"):
                    break
        while at < end and (line := file.readline()):
            yield line
            at += len(line)


def _fitted(encoded: Encoded, context_tokens: int, part: Part) -> list[Tokens]:
    """The rows, cut to size, that still train something; counts what was lost."""
    cut = [
        Tokens(ids=row.ids[:context_tokens], weights=row.weights[:context_tokens])
        for row in encoded.rows
    ]
    rows = [row for row in cut if any(row.weights)]
    part.untrained += not rows
    part.truncated += bool(rows) and cut != encoded.rows
    for code in encoded.warnings:
        part.codes[code] = part.codes.get(code, 0) + 1
    return rows
