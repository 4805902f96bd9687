"""What of ours a network can be computed with: not looked up in a list, but tried.

A small tree, computed once as one and once row by row by the model's own forward, must give the
same logits. A model that fails is computed in rectangles with its own attention, and one whose
head is unusual with its own head: slower, never wrong. What so small a trial cannot see is read
from the configuration.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel
from torch import Tensor, nn

from ftd.worker.architecture import steady_tokens
from ftd.worker.train.compute import gated, lora, norm
from ftd.worker.train.compute.attention import NAME, Nodes, Pattern, Rule, Wish
from ftd.worker.train.compute.blockwise import blockwise
from ftd.worker.train.compute.flex import flex
from ftd.worker.train.compute.head import Head
from ftd.worker.train.compute.scoring import Scorer
from ftd.worker.train.compute.tree import Tree, grow
from ftd.worker.train.data import Row
from ftd.worker.train.packing import pad

# How far apart logits and gradients may be, as a part of their size: sums in another order, rounded
# (to 8 bits in bfloat16) in every layer. Another mask or a missing term is worth far more.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 0.1}

_log = logging.getLogger(__name__)


def quickest(network: Any, device: torch.device, *, autocast: bool, trees: bool = True) -> Scorer:
    """The quickest way to compute `network` that is proven right; in `trees` only if wanted.

    Its attention is replaced, and its adapted layers are quickened, where that can be done.
    """
    inner = _inner(network)
    scorer = Scorer(
        network=network,
        decoder=_decoder(inner),
        device=device,
        autocast=autocast,
        alike_tokens=steady_tokens(inner.config.get_text_config(), {"longrope", "dynamic"}),
    )
    training = network.training
    network.eval()
    with torch.no_grad():
        trial = _Trial.of(scorer)
        norms, layers = norm.quicken(network), gated.quicken(network)
        quickened = [*lora.quicken(network), *norms, *layers]
        count = getattr(inner.config.get_text_config(), "num_hidden_layers", math.inf)
        thrifty = replace(scorer, thrifty=len(norms) >= 2 * count and len(layers) >= count)
        found = _found(thrifty, trial, trees=trees)
        if found == thrifty and not trial.agrees(trial.computed_by(thrifty)):
            for module in quickened:
                del module.forward  # and with it what we put in place of its class's
            quickened = []
            found = _found(scorer, trial, trees=trees)
    network.train(training)
    _log.info(
        "computes in %s, with %s head; %d layers quickened",
        "rectangles" if found.trees is None else "trees",
        "the model's own" if found.head is None else "a chunked",
        len(quickened),
    )
    return found


def _found(scorer: Scorer, trial: "_Trial", *, trees: bool) -> Scorer:
    scorer = _with_head(scorer, trial)
    return _with_trees(scorer, trial) if trees else scorer


def compiled(scorer: Scorer) -> Scorer:
    """`scorer` with its attention compiled into one kernel, if that gives the same gradients. Takes
    the time of the compilation, and draws no random number."""
    if scorer.trees is None:
        return scorer
    # Several squares on a side: some seen whole, some in part and some not at all.
    ids = [7919 * (at + 1) % _vocabulary(_inner(scorer.network)) for at in range(660)]
    tree = grow([_row(ids[:360]), _row(ids[:300] + ids[360:420]), _row(ids[420:])])
    training = scorer.network.training
    scorer.network.eval()
    try:
        apart = _gradients_apart(scorer, replace(scorer, trees=flex), tree)
    except Exception as error:  # noqa: BLE001 - a compiler may fail in any way; we do without it
        _log.warning("attention cannot be compiled: %s", error)
        return scorer
    finally:
        scorer.network.train(training)
    _log.info("compiled attention differs by %.2g of the gradients", apart)
    return replace(scorer, trees=flex) if apart <= TOLERANCE[_dtype(scorer)] else scorer


def _gradients_apart(one: Scorer, other: Scorer, tree: Tree) -> float:
    trained = [weight for weight in one.network.parameters() if weight.requires_grad]
    difference = size = 0.0
    expected, found = (
        torch.autograd.grad(each.score(tree).nll, trained, materialize_grads=True)
        for each in (one, other)
    )
    for ours, theirs in zip(found, expected, strict=True):
        difference += float((ours - theirs).float().square().sum())
        size += float(theirs.float().square().sum())
    return math.sqrt(difference / size)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """Two rows that begin alike and a third, and the logits of all their tokens, row by row, as the
    model computed them before anything was changed."""

    rows: tuple[Row, ...]
    own: Tensor
    tolerance: float

    @classmethod
    def of(cls, scorer: Scorer) -> "_Trial":
        ids = [7919 * (at + 1) % _vocabulary(_inner(scorer.network)) for at in range(24)]
        rows = (_row(ids[:13]), _row(ids[:6] + ids[13:19]), _row(ids[19:24]))
        return cls(
            rows=rows,
            own=scorer.logits(pad(rows), _in_rectangle(rows)),
            tolerance=TOLERANCE[_dtype(scorer)],
        )

    def computed_by(self, scorer: Scorer) -> Tensor:
        """The same logits in one rectangle."""
        return scorer.logits(pad(self.rows), _in_rectangle(self.rows))

    def agrees(self, logits: Tensor) -> bool:
        expected, found = self.own.float(), logits.float()
        size = (expected - expected.mean(dim=1, keepdim=True)).norm()
        apart = float((expected - found).norm() / size)
        _log.info("differs from the model's own forward by %.2g of the logits", apart)
        return apart <= self.tolerance  # not so when it is no number


def _with_head(scorer: Scorer, trial: _Trial) -> Scorer:
    found = None if scorer.decoder is None else _head(_inner(scorer.network))
    if found is None:
        return scorer
    headed = replace(scorer, head=found)
    try:
        return headed if trial.agrees(trial.computed_by(headed)) else scorer
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a decoder does alone; its model can
        _log.info("the head cannot be replaced: %s", error)
        return scorer


def _with_trees(scorer: Scorer, trial: _Trial) -> Scorer:
    inner = _inner(scorer.network)
    if (reason := _mixes_otherwise(inner)) is not None:
        _log.info("no trees: %s", reason)
        return scorer
    before = inner.config._attn_implementation  # noqa: SLF001 - it has no other name
    counter = _Counter()
    try:
        inner.set_attn_implementation(NAME)
        tree = grow(trial.rows)
        logits = replace(scorer, trees=counter.pattern).logits(tree, np.arange(len(tree)))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a model does with our masks; its own work
        _log.info("attention cannot be replaced: %s", error)
    else:
        layers = inner.config.get_text_config().num_hidden_layers
        places = np.concatenate([_in_tree(tree, row) for row in trial.rows])
        if counter.asked == layers and trial.agrees(logits[torch.from_numpy(places)]):
            return replace(scorer, trees=blockwise)
        _log.info("%d of %d layers asked our attention", counter.asked, layers)
    inner.set_attn_implementation(before)
    return scorer


def _mixes_otherwise(inner: Any) -> str | None:
    """Why tokens would learn of others than through attention, or of places; None: no sign of it.

    In a trial, what an untrained or weak layer mixes may drown in rounding.
    """
    if getattr(inner.config.get_text_config(), "attn_temperature_tuning", False):
        return "it counts places where it should ask for positions"  # Llama 4, from 8,192 on
    for name, module in inner.named_modules():
        if isinstance(module, nn.Conv1d):  # state-space and linear attention have one too
            return f"{name} is a convolution along the sequence"
    return None


@dataclass(slots=True)
class _Counter:
    """Block by block, counting the layers that ask."""

    asked: int = 0

    def pattern(self, nodes: Nodes, rule: Rule) -> "_Counted":
        return _Counted(self, blockwise(nodes, rule))


@dataclass(frozen=True, slots=True)
class _Counted:
    """A Pattern that tells a counter of each call."""

    counter: _Counter
    pattern: Pattern

    def attend(self, query: Tensor, key: Tensor, value: Tensor, wish: Wish) -> Tensor:
        self.counter.asked += 1
        return self.pattern.attend(query, key, value, wish)


def _head(inner: Any) -> Head | None:
    """The head as its configuration describes it, to be proven; None when it is another thing."""
    output = inner.get_output_embeddings()
    if type(output) is not nn.Linear or output.bias is not None:
        return None
    config = inner.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0  # Cohere
    scale /= getattr(config, "logits_scaling", None) or 1.0  # Granite
    softcap = getattr(config, "final_logit_softcapping", None)  # Gemma
    return Head(weight=output.weight, scale=scale, softcap=softcap)


def _decoder(inner: Any) -> nn.Module | None:
    """What comes before the head; a few models do not keep it under the name that they give."""
    for name in (inner.base_model_prefix, "model"):
        if isinstance(found := getattr(inner, name, None), nn.Module):
            return found
    return None


def _row(ids: list[int]) -> Row:
    return Row(ids=np.array(ids, np.int32), weights=np.ones(len(ids), np.float32))


def _in_rectangle(rows: Sequence[Row]) -> npt.NDArray[np.int64]:
    """Where the tokens of all rows stand when they are padded."""
    width = max(len(row.ids) for row in rows)
    starts = range(0, width * len(rows), width)
    return np.concatenate(
        [start + np.arange(len(row.ids)) for start, row in zip(starts, rows, strict=True)]
    )


def _in_tree(tree: Tree, row: Row) -> npt.NDArray[np.int64]:
    """Where the tokens of a row stand in the tree that it is in."""
    leaves = np.flatnonzero(tree.end == np.arange(len(tree)) + 1)
    paths = [np.append(tree.path(int(leaf)), leaf) for leaf in leaves]
    return next(path for path in paths if np.array_equal(tree.ids[path], row.ids))


def _dtype(scorer: Scorer) -> torch.dtype:
    """What it computes in."""
    return torch.bfloat16 if scorer.autocast else next(scorer.network.parameters()).dtype


def _vocabulary(inner: Any) -> int:
    return int(inner.get_input_embeddings().weight.shape[0])


def _inner(network: nn.Module) -> Any:
    return network.get_base_model() if isinstance(network, PeftModel) else network
