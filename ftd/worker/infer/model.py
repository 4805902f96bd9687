"""The model that answers: loaded, turned to ragged turns, and proven to compute what it did before.

transformers' code is kept but for attention. Whether a model can do with that is not looked up in
a list, it is tried: two short prompts in three ragged turns must give the logits that a plain pass
gives. What such a trial cannot see, because prompts are short (windows, positions that change with
the length), is read from the configuration. A model that fails is refused, never served wrongly.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ftd.core.errors import FtdError, invalid
from ftd.core.spec import ServeSpec
from ftd.worker import pretrained
from ftd.worker.architecture import steady_tokens
from ftd.worker.infer.attention import NAME, NotServable, Span, Turn, Wish, attending
from ftd.worker.infer.cache import KeyValues, Layout

# How far apart logits may be, as a part of their size: rounding of sums in another order, which in
# bfloat16 has 8 bits. Another mask or a missing term is worth far more than that.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
_PROOF = (13, 9)  # lengths of the two prompts

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A loaded model, its tokenizer, and what a token leaves in its cache."""

    module: Any  # a transformers model for causal language modelling
    tokenizer: Any
    layout: Layout
    context_tokens: int  # prompt and answer together: the smaller of the spec's and the model's
    vocabulary: int  # token ids are below it

    @property
    def device(self) -> torch.device:
        return self.layout.device

    def compute(self, parts: Sequence[tuple[KeyValues, list[int]]], wanted: list[int]) -> Tensor:
        """One pass over the new tokens of several sequences; the caller adds them to `tokens`.

        `wanted` are the positions, in all new tokens behind one another, whose logits are
        returned: float32, [wanted, vocabulary]. May raise OutOfMemoryError; a pass that is not
        completed, or not wanted any more, leaves no trace.
        """
        for known, new in parts:
            known.reserve(len(new))
        turn = Turn([Span(known, len(new)) for known, new in parts])
        ids = [token for _, new in parts for token in new]
        places = [len(known.tokens) + at for known, new in parts for at in range(len(new))]
        return _run(self.module, ids, places, wanted, turn)


def load(spec: ServeSpec, root: Path) -> Network:
    """The model that `spec` names below `root`, proven. Raises FtdError for what is not served."""
    torch.set_num_threads(spec.threads)
    at = pretrained.device(spec.device)
    dtype = torch.bfloat16 if spec.dtype == "bfloat16" else torch.float32
    tokenizer, module = pretrained.load(root / spec.model, at, dtype)
    with torch.inference_mode():
        return prepare(module.eval(), tokenizer, spec.context_tokens)


def prepare(module: Any, tokenizer: Any, context_tokens: int) -> Network:
    """`module` with ragged attention in place of its own, proven equal to what it was."""
    config = module.config.get_text_config()
    vocabulary = module.get_input_embeddings().weight.shape[0]
    ids = [7919 * (at + 1) % vocabulary for at in range(sum(_PROOF))]
    first, second = ids[: _PROOF[0]], ids[_PROOF[0] :]
    plain = torch.cat([_plain(module, first), _plain(module, second)])
    try:
        module.set_attn_implementation(NAME)
        layout = _layout(module, config, first)
        network = Network(
            module=module,
            tokenizer=tokenizer,
            layout=layout,
            context_tokens=min(context_tokens, _limit(config)),
            vocabulary=vocabulary,
        )
        ragged = _ragged(network, first, second)
    except NotServable as reason:
        raise _refused(module, str(reason)) from reason
    except (ValueError, TypeError, RuntimeError, IndexError, LookupError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise _refused(module, f"its attention cannot be replaced ({error})") from error
    _compare(module, plain, ragged)
    return network


def _run(module: Any, ids: list[int], places: list[int], wanted: list[int], behind: Any) -> Tensor:
    device = module.device
    row = torch.tensor([ids, places, wanted + [0] * (len(ids) - len(wanted))], device=device)
    answer = attending(
        behind,
        lambda: module(
            input_ids=row[0:1],
            position_ids=row[1:2],
            logits_to_keep=row[2, : len(wanted)],
            use_cache=False,
        ),
    )
    logits: Tensor = answer.logits[0].float()
    return logits


def _plain(module: Any, ids: list[int]) -> Tensor:
    given = torch.tensor([ids], device=module.device)
    logits: Tensor = module(input_ids=given, use_cache=False).logits[0].float()
    return logits


def _ragged(network: Network, first: list[int], second: list[int]) -> Tensor:
    """Logits of both prompts at every position, computed as a batch computes them: in parts, side
    by side, and the last tokens one at a time."""
    one, two = KeyValues(network.layout), KeyValues(network.layout)
    parts = (
        [(one, first[:7])],
        [(one, first[7:-1]), (two, second[:-1])],
        [(one, first[-1:]), (two, second[-1:])],
    )
    found: dict[int, list[Tensor]] = {id(one): [], id(two): []}
    for turn in parts:
        lengths = [len(new) for _, new in turn]
        logits = network.compute(turn, list(range(sum(lengths))))
        for (known, new), part in zip(turn, logits.split_with_sizes(lengths), strict=True):
            known.tokens.extend(new)
            found[id(known)].append(part)
    return torch.cat([*found[id(one)], *found[id(two)]])


def _compare(module: Any, plain: Tensor, ragged: Tensor) -> None:
    tolerance = TOLERANCE[module.dtype]
    apart = float((plain - ragged).norm() / (plain - plain.mean(dim=1, keepdim=True)).norm())
    _log.info("ragged turns differ from plain ones by %.2g of the logits", apart)
    if not apart <= tolerance:  # also when it is no number
        reason = f"batched turns differ from plain ones by {apart:.2g} of the logits"
        raise _refused(module, reason)


class _Look:
    """Stands in for attention once, to see what each layer asks it for."""

    def __init__(self) -> None:
        self.keys: list[torch.Size] = []
        self.values: list[torch.Size] = []
        self.windows: list[int | None] = []

    def attend(self, query: Tensor, key: Tensor, value: Tensor, wish: Wish) -> Tensor:
        self.keys.append(key.shape)
        self.values.append(value.shape)
        self.windows.append(wish.window)
        width = value.shape[-1]
        return query.new_zeros(1, query.shape[2], query.shape[1], width)


def _layout(module: Any, config: Any, ids: list[int]) -> Layout:
    look = _Look()
    _run(module, ids, list(range(len(ids))), [0], look)
    if len(look.keys) != config.num_hidden_layers:
        raise NotServable(
            f"{len(look.keys)} of its {config.num_hidden_layers} layers are attention of the "
            "usual kind"
        )
    if len({*look.keys, *look.values}) != 1:
        raise NotServable("its layers keep keys and values of different shapes")
    if look.windows != (expected := _windows(config)):
        raise NotServable(f"its layers see {_spoken(look.windows)}, not {_spoken(expected)}")
    _, heads, _, width = look.keys[0]
    return Layout(
        layers=len(look.keys),
        heads=heads,
        width=width,
        dtype=module.dtype,
        device=module.device,
    )


def _windows(config: Any) -> list[int | None]:
    """What the configuration says of each layer: how many tokens it sees, None for all."""
    window = getattr(config, "sliding_window", None)
    if getattr(config, "use_sliding_window", True) is False:
        window = None
    if getattr(config, "attention_chunk_size", None) is not None:
        raise NotServable("it attends in chunks")
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return [window] * config.num_hidden_layers
    if unknown := set(kinds) - {"full_attention", "sliding_attention"}:
        raise NotServable(f"it has layers of {', '.join(sorted(unknown))}")
    return [window if kind == "sliding_attention" else None for kind in kinds]


def _limit(config: Any) -> int:
    """How long a sequence may be. Where the positions' frequencies change beyond a length, that
    length: in one pass all sequences would get what the longest needs."""
    longest = getattr(config, "max_position_embeddings", None) or 2**31
    return int(min(longest, steady_tokens(config, {"longrope"})))


def _spoken(windows: list[int | None]) -> str:
    kinds = dict.fromkeys("all tokens" if window is None else f"{window}" for window in windows)
    return " or ".join(kinds)


def _refused(module: Any, reason: str) -> FtdError:
    return invalid(
        f"The architecture {type(module).__name__} cannot be served here: {reason}.",
        code="unsupported_model",
    )
