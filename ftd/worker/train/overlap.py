"""How much of one file is in another, by what the model is given of their examples."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ftd.worker.train.data import TokenFile

_PULSE_EXAMPLES = 10_000


def overlap(one: TokenFile, other: TokenFile, pulse: Callable[[], None]) -> int:
    """The number of examples of `one` that `other` has too, with the same weights.

    Takes 8 bytes an example and some 3 us. Exact but for chance: among ten million examples, two
    different ones share a 64-bit hash with a chance of one in 370,000 (the birthday bound).
    """
    return int(np.isin(_hashes(one, pulse), _hashes(other, pulse)).sum())


def _hashes(file: TokenFile, pulse: Callable[[], None]) -> NDArray[np.int64]:
    hashes = np.empty(len(file), np.int64)
    for index in range(len(file)):
        if index % _PULSE_EXAMPLES == 0:
            pulse()
        hashes[index] = hash(file.content(index))
    return hashes
