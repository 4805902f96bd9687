"""How many tokens a pass may have: fewer after each time that memory ran out."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from ftd.core.errors import invalid
from ftd.worker.train.compute.scoring import Scorer
from ftd.worker.train.compute.tree import Tree
from ftd.worker.train.data import Row
from ftd.worker.train.packing import Padded

LARGER = 4  # times the tokens of a training pass, where nothing is kept for a way back

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Budget:
    """Shares rows out over passes that fit.

    Smaller passes leave the batch as it is, for its sums are taken over all of them. What was
    learnt holds for the rest of the run.
    """

    def __init__(self, scorer: Scorer, tokens: int, warn: Callable[[str], None]) -> None:
        self.tokens = tokens
        self._larger = LARGER
        self._scorer = scorer
        self._warn = warn

    def fit(
        self, rows: Sequence[Row], work: Callable[[list[Tree | Padded]], T], *, keeps: bool = True
    ) -> T:
        """What `work` makes of these rows in passes that fit; it is begun anew with smaller ones
        when the device runs out of memory. Raises FtdError when a single row does not fit.

        Passes that keep nothing for a way back are larger, while that fits.
        """
        while True:
            larger = 1 if keeps else self._larger
            passes = self._scorer.passes(rows, self.tokens * larger)
            try:
                return work(passes)
            except torch.OutOfMemoryError as error:
                shortage = str(error)
            # Out here the exception is gone, and with it the frames that held on to tensors.
            self._shrink(rows, max(each.ids.size for each in passes), larger, shortage)

    def _shrink(self, rows: Sequence[Row], largest: int, larger: int, shortage: str) -> None:
        _log.warning("out of memory: %s", shortage)
        if self._scorer.device.type == "cuda":
            torch.cuda.empty_cache()
        longest = max(len(row.ids) for row in rows)
        if larger > 1:  # training's passes fit; only these were too large
            self._larger = larger // 2
            return
        if largest <= longest:
            if torch.is_grad_enabled() and self._scorer.recompute():
                self._warn(
                    "The device ran out of memory; going on with activations computed again on the "
                    "way back, which is slower. The batch size stays."
                )
                return
            raise invalid(
                f"The device's memory is too small for an example of {longest:,} tokens, even "
                "alone. A smaller model, shorter examples or a lower limit of context would fit.",
                code="out_of_memory",
            )
        self.tokens = min(self.tokens, largest) // 2
        self._warn(
            f"The device ran out of memory; going on with {self.tokens:,} tokens at a time. "
            "The batch size stays."
        )
