"""How the next token is chosen: OpenAI's settings, applied in a fixed order to one row of logits.

    logits -> + logit_bias -> - penalties -> only what a grammar allows -> / temperature -> top_p

A choice draws with a generator of its own, one number a token, so that its answer is the same
whatever else is in the batch. Logprobs are of the logits as they came.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from ftd.core.chat import Sampling

# Below this a temperature is 0: the likeliest token has all of the probability.
COLD: Final = 1e-5
LEAST: Final = -9999.0  # the logprob of what cannot be, in OpenAI's words: JSON has no infinity
_NUCLEUS = 256  # tokens that hold the mass of top_p nearly always; finding them is quick
_SEEDS = 2**64


class Sampler:
    """Chooses the tokens of one choice of a request; `seed` is this choice's own."""

    def __init__(self, sampling: Sampling, seed: int) -> None:
        self._temperature = sampling.temperature
        self._top_p = sampling.top_p
        self._bias = sampling.logit_bias
        self._frequency = sampling.frequency_penalty
        self._presence = sampling.presence_penalty
        self._seen: dict[int, int] = {}
        self._generator = torch.Generator().manual_seed(seed % _SEEDS)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken, whatever it is."""
        return self._cold and not (self._bias or self._frequency or self._presence)

    @property
    def _cold(self) -> bool:
        return self._temperature < COLD

    def choose(self, logits: Tensor, allowed: Tensor | None = None) -> int:
        """The next token by logits [vocabulary], which stay as they are. `allowed`, of bools,
        leaves out what a grammar forbids. Raises ValueError where nothing can be chosen."""
        weighed = self._weighed(logits)
        if allowed is not None:
            weighed = weighed.masked_fill(~allowed, -torch.inf)
        best, token = weighed.max(dim=-1)
        if not torch.isfinite(best):
            raise ValueError(f"no token can be chosen: the best logit is {float(best)}")
        return int(token) if self._cold else self._draw(weighed - best)

    def take(self, token: int) -> None:
        """It stands in the answer: penalties count it."""
        if self._frequency or self._presence:
            self._seen[token] = self._seen.get(token, 0) + 1

    def _weighed(self, logits: Tensor) -> Tensor:
        if not self._bias and not self._seen:
            return logits
        weighed = logits.clone()
        if self._bias:
            _add(weighed, list(self._bias), list(self._bias.values()))
        if self._seen:
            costs = [-(count * self._frequency + self._presence) for count in self._seen.values()]
            _add(weighed, list(self._seen), costs)
        return weighed

    def _draw(self, logits: Tensor) -> int:
        """A token by the probabilities of logits whose maximum is 0."""
        chances = torch.softmax(logits / self._temperature, dim=-1)
        if self._top_p < 1:
            chances = _nucleus(chances, self._top_p)
        reached = chances.double().cumsum(dim=-1)
        drawn = torch.rand((), generator=self._generator, dtype=torch.float64).to(logits.device)
        token = int(torch.searchsorted(reached, drawn * reached[-1], right=True))
        return min(token, len(chances) - 1)


def likely(logits: Tensor, token: int, count: int) -> tuple[float, list[tuple[int, float]]]:
    """The logprob of `token`, and the `count` likeliest tokens with theirs, best first."""
    logprobs = torch.log_softmax(logits, dim=-1)
    best = logprobs.topk(min(count, len(logprobs)))
    top = list(zip(best.indices.tolist(), map(_finite, best.values.tolist()), strict=True))
    return _finite(float(logprobs[token])), top


def _finite(logprob: float) -> float:
    return max(logprob, LEAST)


def _add(logits: Tensor, tokens: Sequence[int], amounts: Sequence[float]) -> None:
    at = torch.tensor(tokens, device=logits.device)
    logits[at] += torch.tensor(amounts, dtype=logits.dtype, device=logits.device)


def _nucleus(chances: Tensor, top_p: float) -> Tensor:
    """The chances of the fewest tokens that have at least `top_p` together; 0 for all others."""
    best, tokens = chances.topk(min(_NUCLEUS, len(chances)))
    if best.sum() < top_p:
        best, tokens = chances.sort(descending=True)
    inside = best.cumsum(dim=-1) - best < top_p
    inside[0] = True
    kept = torch.zeros_like(chances)
    kept[tokens[inside]] = best[inside]
    return kept
