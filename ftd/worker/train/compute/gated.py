"""Gated feed-forward layers that keep less for the way back (Shazeer 2020).

    y = down(act(gate x) * (up x))

Autograd would keep act(gate x) beside the two factors, a ninth of all that a step keeps; here it
is computed again.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ftd.worker.train.compute.again import cheap
from ftd.worker.train.compute.nearness import close, distance

_LAYERS = ("gate_proj", "up_proj", "down_proj", "act_fn")


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, act: Callable[[Tensor], Tensor], gate: Tensor, up: Tensor) -> Tensor:
        ctx.act = act
        ctx.save_for_backward(gate, up)
        return act(gate) * up

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        with torch.enable_grad():
            gate = gate.detach().requires_grad_()
            acted = ctx.act(gate)
        (back_gate,) = torch.autograd.grad(acted, gate, grad * up)
        return None, back_gate, grad * acted.detach()


def quicken(network: nn.Module) -> list[nn.Module]:
    """Have every feed-forward layer that this is found to compute do so; returns them.

    One of a kind is tried. Layers of a kind that differ from each other show in the trial of the
    whole network.
    """
    kinds: dict[tuple[type, type], bool] = {}
    found = []
    for module in network.modules():
        if not all(isinstance(getattr(module, name, None), nn.Module) for name in _LAYERS):
            continue
        kind = (type(module), type(module.act_fn))
        if kind not in kinds:
            kinds[kind] = _is_gated(module)
        if kinds[kind]:
            module.forward = _forward(module)
            found.append(module)
    return found


def _is_gated(module: Any) -> bool:
    """Whether it computes nothing else and trains nothing else."""
    if next(module.parameters(recurse=False), None) is not None:
        return False
    if next(module.act_fn.parameters(), None) is not None:
        return False
    if any(isinstance(child, nn.Dropout) and child.p for child in module.children()):
        return False
    weight = next(module.gate_proj.parameters())
    width = getattr(module.gate_proj, "in_features", None)
    if not isinstance(width, int):
        return False
    x = torch.linspace(-2, 3, width, device=weight.device, dtype=weight.dtype)[None, None]
    with torch.no_grad():
        # Once far out, where a clamp would show.
        return all(_agrees(module, factor * x, weight.dtype) for factor in (1, 1000))


def _agrees(module: Any, x: Tensor, dtype: torch.dtype) -> bool:
    theirs, ours = module(x), _forward(module)(x)
    if not isinstance(theirs, Tensor) or theirs.shape != ours.shape:
        return False
    return distance(ours, theirs) <= close(dtype)


def _forward(module: Any) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        gate, up = module.gate_proj(x), module.up_proj(x)
        gated = _Gated.apply(module.act_fn, gate, up)  # type: ignore[no-untyped-call]
        gate, up = gate.detach(), up.detach()
        y: Tensor = module.down_proj(cheap(gated, lambda: module.act_fn(gate) * up))
        return y

    return forward
