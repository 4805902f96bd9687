"""Seeded fuzz: the same streams at every run, as many as asked for.

    FTD_FUZZ=10000 python -m pytest --timeout 0 tests/runner/test_hearing.py ...

A failure names its seed; the stream of a seed is the same in every run.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager


def seeds(usual: int) -> range:
    """Those of one run: `usual` of them, or as many as FTD_FUZZ says."""
    return range(int(os.environ.get("FTD_FUZZ", usual)))


@contextmanager
def seeded(seed: int) -> Iterator[random.Random]:
    """The chance of one stream; what fails in it says which it was."""
    try:
        yield random.Random(seed)
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


def mutated(data: bytes, chance: random.Random, splices: list[bytes]) -> bytes:
    """`data` with one thing wrong: a bit, bytes lost, doubled, moved or put in, or its end."""
    at, to = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    match chance.randrange(8):
        case 0 if at < len(data):
            flipped = data[at] ^ (1 << chance.randrange(8))
            return data[:at] + bytes([flipped]) + data[at + 1 :]
        case 1:
            return data[:at]
        case 2:
            return data[:at] + data[to:]
        case 3:
            return data[:to] + data[at:]
        case 4:
            end = min(len(data), to + (to - at))
            return data[:at] + data[to:end] + data[at:to] + data[end:]
        case 5:
            return data[:at] + chance.randbytes(chance.randrange(1, 40)) + data[at:]
        case 6:
            return data[:at] + bytes(chance.randrange(1, 40)) + data[at:]
        case _:
            return data[:at] + chance.choice(splices) + data[to:]
