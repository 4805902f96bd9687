"""One forward pass: the loss of a tree of rows, or of a rectangle of them, and what was right.

transformers' code is kept but for attention and for the head's loss; which of ours a network can be
computed with is proven before (see proof).
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from ftd.worker.train.compute.again import thrifty
from ftd.worker.train.compute.attention import Nodes, Pattern, Rule, attending
from ftd.worker.train.compute.head import Head, score
from ftd.worker.train.compute.tree import Tree, grow
from ftd.worker.train.data import Row
from ftd.worker.train.packing import Padded, pad, share_out, split

# What starting a pass (forward and backward) is worth in tokens. CPU: measured, 24 on one core and
# 38 on two, with 135M parameters. CUDA: an estimate, 30 ms of kernel launches at 30,000 tokens/s.
PASS_TOKENS = {"cpu": 32, "cuda": 1024}


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Sums over the predictions of a pass, scalars on the device: `nll` in nats (with its gradient)
    and `hits` of the likeliest token, each prediction counting by its weight."""

    nll: Tensor
    hits: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """How a network is computed. `trees`: by our attention, which is set then, in patterns that
    this makes; `head`: by our loss."""

    network: nn.Module  # for causal language modelling, PEFT's wrapping included
    decoder: nn.Module | None  # what it has before its head
    device: torch.device
    autocast: bool  # compute in bfloat16
    trees: Callable[[Nodes, Rule], Pattern] | None = None
    head: Head | None = None  # needs a decoder
    thrifty: bool = False  # every layer forgets what is cheap to compute again
    alike_tokens: int = 2**31  # rows that are longer change what others in their pass compute

    def recompute(self) -> bool:
        """Keep less for the way back from now on, and compute it again; False if that is so
        already, or cannot be done."""
        network: Any = self.network
        if network.is_activation_checkpointing or not network.supports_gradient_checkpointing:
            return False
        network.activation_checkpointing_enable()
        return True

    def passes(self, rows: Sequence[Row], budget_tokens: int) -> list[Tree | Padded]:
        """These rows in passes of at most `budget_tokens` tokens, or of one row."""
        alike = [row for row in rows if len(row.ids) <= self.alike_tokens]
        alone = [[row] for row in rows if len(row.ids) > self.alike_tokens]
        if self.trees is not None:
            return [grow(part) for part in share_out(alike, budget_tokens) + alone]
        parts = split(alike, budget_tokens, PASS_TOKENS[self.device.type])
        return [pad(part) for part in parts + alone]

    def score(self, work: Tree | Padded) -> Score:
        """One forward pass. Only sources of predictions go through the language model's head."""
        with thrifty():
            return self._score(work)

    def _score(self, work: Tree | Padded) -> Score:
        source = np.unique(work.source)
        places = torch.from_numpy(np.searchsorted(source, work.source))
        target, weight = torch.from_numpy(work.target), torch.from_numpy(work.weight)
        if self.head is not None:
            with self._precision():
                hidden = self._hidden(work, source)
                nll, hits = score(self.head, hidden, places, target, weight)
            return Score(nll=nll, hits=hits)
        logits = self.logits(work, source)
        places, target, weight = (each.to(self.device) for each in (places, target, weight))
        logits = logits.to(torch.promote_types(torch.float32, logits.dtype))
        losses = functional.cross_entropy(logits[places], target, reduction="none")
        hits = (logits.detach().argmax(dim=-1)[places] == target) * weight
        return Score(nll=(losses * weight).sum(), hits=hits.sum())

    def logits(self, work: Tree | Padded, source: npt.NDArray[np.int64]) -> Tensor:
        """Of these tokens, ascending and counted row by row: (source, words)."""
        with self._precision():
            if self.head is not None:
                return self.head.logits(self._hidden(work, source))
            # By the model's own head, so that whatever it does there is done.
            kept = torch.zeros(work.ids.size, dtype=torch.bool)
            kept[torch.from_numpy(source)] = True
            kept = kept.view(work.ids.shape if isinstance(work, Padded) else (1, -1))
            kept = kept.to(self.device)
            logits: Tensor = self._run(self.network, work, logits_to_keep=kept).logits
            return logits.reshape(len(source), -1)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast)

    def _hidden(self, work: Tree | Padded, source: npt.NDArray[np.int64]) -> Tensor:
        """What the head is given: (source, width)."""
        hidden: Tensor = self._run(self.decoder, work).last_hidden_state
        return hidden.flatten(0, 1)[self._moved(source)]

    def _run(self, module: Any, work: Tree | Padded, **more: Any) -> Any:
        ids = self._moved(work.ids)
        if isinstance(work, Padded):
            return module(input_ids=ids, use_cache=False, **more)
        dtype = torch.bfloat16 if self.autocast else next(self.network.parameters()).dtype
        # A mask of ones says that nothing is packed; what is seen, our attention decides.
        ones = torch.ones(1, len(work), dtype=torch.bool, device=self.device)
        assert self.trees is not None
        with attending(functools.partial(self.trees, Nodes.of(work, self.device, dtype))):
            return module(
                input_ids=ids[None],
                position_ids=self._moved(work.depth)[None],
                attention_mask=ones,
                use_cache=False,
                **more,
            )

    def _moved(self, array: npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)
