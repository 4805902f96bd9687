"""When things happen: which examples a step takes, and at what share of the learning rate.

Everything here is a pure function of the step, so that a resumed attempt needs to know nothing
else to go on where the last one stopped.
"""

import math
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np
import numpy.typing as npt


class Stream(IntEnum):
    """Independent sources of order under one seed."""

    TRAINING = 0
    VALIDATION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps of a job, counted from 1; every example is taken once an epoch."""

    examples: int
    batch_size: int
    n_epochs: int
    seed: int
    warmup_ratio: float

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.examples / self.batch_size)

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.n_epochs

    def place(self, step: int) -> tuple[int, int]:
        """After `step`: the epochs that are complete and the batches taken of the next one."""
        return divmod(step, self.steps_per_epoch)

    def ends_epoch(self, step: int) -> bool:
        return self.place(step)[1] == 0

    def batch(self, step: int) -> list[int]:
        """The examples of `step`; the last batch of an epoch may be smaller."""
        epoch, position = self.place(step - 1)
        shuffled = order(self.seed, Stream.TRAINING, epoch, self.examples)
        start = position * self.batch_size
        return [int(example) for example in shuffled[start : start + self.batch_size]]

    def rate(self, step: int) -> float:
        return multiplier(step, self.total_steps, self.warmup_ratio)


def cycled(seed: int, step: int, batch_size: int, examples: int) -> list[int]:
    """The small validation batch of `step`: the next ones of a shuffled set, over and over."""
    size = min(batch_size, examples)
    start = (step - 1) * size
    return [
        int(order(seed, Stream.VALIDATION, place // examples, examples)[place % examples])
        for place in range(start, start + size)
    ]


@lru_cache(maxsize=4)
def order(seed: int, stream: Stream, epoch: int, examples: int) -> npt.NDArray[np.int64]:
    """A permutation of range(examples): where each would stand if raw 64-bit words were sorted.

    The words are PCG64's, seeded by SeedSequence((seed, stream, epoch)), whose bits NumPy promises
    to keep for ever, as it does not for `permutation`. Eight bytes an example.
    """
    words = np.random.PCG64(np.random.SeedSequence((seed, int(stream), epoch))).random_raw(examples)
    shuffled = np.argsort(words, kind="stable")
    shuffled.flags.writeable = False  # it is shared by all who ask
    return shuffled


def multiplier(step: int, total_steps: int, warmup_ratio: float) -> float:
    """The share of the peak learning rate at `step`, 1 <= step <= total_steps.

    Linear warm-up over the first ceil(warmup_ratio * total) steps, then half a cosine (Loshchilov
    and Hutter 2017) that starts at 1 and reaches 0 one step after the last. So no step is wasted
    on a rate of 0, and a single step has the full rate.
    """
    warmup = min(math.ceil(warmup_ratio * total_steps), total_steps - 1)
    if step <= warmup:
        return step / (warmup + 1)
    done = (step - 1 - warmup) / (total_steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * done))
