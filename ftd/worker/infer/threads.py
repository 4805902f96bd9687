"""As many threads as there are free cores: fewer while a trainer computes on the same ones.

The threads of a pass meet hundreds of times and spin until all have come. One that has lost its
core to somebody else keeps the others spinning, and they keep that one from a core in turn.
Measured, two cores, 135M parameters, ms a turn (one thread has 57 alone):

                                           alone   beside a trainer with two threads
    two threads that spin                     36   88 to 2,153; training at 13% of its speed
    two threads that sleep (OMP passive)      60   60
    this                                      36   56 to 82; training at 40% to 60%

Whether cores are free shows in the time that the process had of them: threads that spin use all.
"""

import time
from collections.abc import Callable
from typing import Final, TypeVar

import torch

CROWDED: Final = 0.75  # of the threads' time was had; alone it is 0.95 and more
FIRST_S: Final = 1.0  # until more threads are tried again; twice as long each time they fail
LAST_S: Final = 60.0

T = TypeVar("T")


class Threads:
    """Runs passes on one thread to `most`."""

    def __init__(self, most: int) -> None:
        self.count = most
        self._most = most
        self._patience_s = FIRST_S
        self._try_at = 0.0

    def run(self, work: Callable[[], T]) -> T:
        """What `work` returns. It is computed by `count` threads, which its time then changes."""
        if self._most == 1:
            return work()
        start, used = time.perf_counter(), time.process_time()
        result = work()
        now = time.perf_counter()
        before = self.count
        self.learn(now, now - start, time.process_time() - used)
        if self.count != before:
            torch.set_num_threads(self.count)
        return result

    def learn(self, now_s: float, wall_s: float, used_s: float) -> None:
        """A pass that ended at `now_s` took `wall_s` and had `used_s` of cores."""
        had = used_s / (wall_s * self.count)
        if self.count > 1 and had < CROWDED:
            self.count = max(1, self.count // 2)
            self._try_at = now_s + self._patience_s
            self._patience_s = min(2 * self._patience_s, LAST_S)
        elif self.count == self._most:
            if now_s > self._try_at + self._patience_s:  # it went well for as long as it did not
                self._patience_s = FIRST_S
        elif now_s >= self._try_at:
            self.count = min(2 * self.count, self._most)
