"""Keys and values of tokens that were computed, so that no token is computed twice.

Each sequence owns one buffer for all layers. It grows by reallocation, so that a long answer costs
memory when it is long, and it is appended to in place. A sequence that ends is shelved: a request
that goes on from its tokens, of the same owner and with the same adapter, begins where the shelved
one is left.

Bytes: SmolLM2-135M in float32 takes 46 KB a token, a 7B model with 8 KV heads in bfloat16 128 KB.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

STEP_TOKENS = 64  # room is made for at least so many tokens at a time
SHARED_TOKENS = 16  # a shorter common beginning is not worth a copy


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What one token leaves behind: in each layer a key and a value for each of `heads`."""

    layers: int
    heads: int
    width: int
    dtype: torch.dtype
    device: torch.device


class KeyValues:
    """The keys and values of one sequence: those of `tokens`, and room for more.

    `buffer` is [layers, 2, heads, room, width], keys before values. Whoever computes tokens makes
    room, writes behind `len(tokens)`, and adds them to `tokens` when they are complete: a turn
    that failed half way is begun anew without a trace.
    """

    def __init__(self, layout: Layout) -> None:
        self.tokens: list[int] = []
        self._layout = layout
        self.buffer = self._empty(0)

    def reserve(self, count: int) -> None:
        """Make room for `count` more tokens, and for some that will come behind them."""
        need = len(self.tokens) + count
        room = self.buffer.shape[3]
        if need <= room:
            return
        grown = self._empty(max(need + STEP_TOKENS, room + room // 4))
        self._copy(self.buffer, grown, len(self.tokens))
        self.buffer = grown

    def copy(self, length: int, more: int = 0) -> "KeyValues":
        """A sequence of its own that begins with the first `length` tokens of this one; it has
        room for `more` and some."""
        other = KeyValues(self._layout)
        other.reserve(length + more)
        self._copy(self.buffer, other.buffer, length)
        other.tokens = self.tokens[:length]
        return other

    def shrink(self) -> None:
        """Give back most of the room that is not used."""
        if self.buffer.shape[3] > len(self.tokens) + STEP_TOKENS:
            trimmed = self._empty(len(self.tokens))
            self._copy(self.buffer, trimmed, len(self.tokens))
            self.buffer = trimmed

    def _empty(self, room: int) -> Tensor:
        at = self._layout
        shape = (at.layers, 2, at.heads, room, at.width)
        return torch.empty(shape, dtype=at.dtype, device=at.device)

    @staticmethod
    def _copy(source: Tensor, target: Tensor, length: int) -> None:
        target[:, :, :, :length].copy_(source[:, :, :, :length])


class Shelf:
    """Sequences that ended, the one used last at the end, at most `limit` tokens together."""

    def __init__(self, limit: int) -> None:
        self.tokens = 0
        self._limit = limit
        self._kept: list[tuple[Hashable, KeyValues]] = []

    def put(self, under: Hashable, known: KeyValues) -> None:
        """Keep what was computed `under` an owner and an adapter; the oldest go when it is too
        much.

        One that only repeats the beginning of another is not kept beside it.
        """
        count = len(known.tokens)
        if not SHARED_TOKENS <= count <= self._limit:
            return
        for other, old in list(self._kept):
            if other == under:
                shared = common(old.tokens, known.tokens)
                if shared == count:
                    return
                if shared == len(old.tokens):
                    self._remove(old)
        known.shrink()
        self._kept.append((under, known))
        self.tokens += count
        while self.tokens > self._limit:
            self._remove(self._kept[0][1])

    def take(
        self,
        under: Hashable,
        ids: Sequence[int],
        running: Iterable[tuple[Hashable, KeyValues]],
    ) -> KeyValues | None:
        """The longest known beginning of `ids` as a sequence of its own, from what is kept or runs.

        At least one token is left to compute, because its logits choose the next. None when
        fewer than SHARED_TOKENS are known. A kept sequence that `ids` goes on from whole is
        handed over, not copied.
        """
        best, length = None, SHARED_TOKENS - 1
        for other, known in (*self._kept, *running):
            if other == under:
                shared = min(common(known.tokens, ids), len(ids) - 1)
                if shared > length:
                    best, length = known, shared
        if best is None:
            return None
        place = next((at for at, (_, known) in enumerate(self._kept) if known is best), None)
        if place is None:
            return best.copy(length, len(ids) - length)
        if length == len(best.tokens):
            self._remove(best)
            return best
        self._kept.append(self._kept.pop(place))
        return best.copy(length, len(ids) - length)

    def clear(self) -> bool:
        """Forget everything. Says whether there was anything."""
        found = bool(self._kept)
        self._kept.clear()
        self.tokens = 0
        return found

    def _remove(self, known: KeyValues) -> None:
        self._kept = [(under, kept) for under, kept in self._kept if kept is not known]
        self.tokens -= len(known.tokens)


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """The length of the common beginning of two lists; comparing slices is C, a loop is not."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
