"""Root-mean-square norms in few passes over memory (Zhang and Sennrich 2019).

    y = x r f          r = 1 / sqrt(mean(x^2) + eps) of each token; f = w, or 1 + w in Gemma's

Written out in a library's small steps, a norm's way there and back reads and writes the hidden
states some twenty times, which on a processor takes five times as long as the arithmetic.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ftd.worker.train.compute.again import cheap
from ftd.worker.train.compute.nearness import close, distance


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor, eps: float) -> Tensor:
        y, scale = _computed(x, factor, eps)
        ctx.save_for_backward(x, factor, scale)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, factor, scale = ctx.saved_tensors
        wide, grad = x.to(scale.dtype), grad.to(scale.dtype)
        back_factor = None
        if ctx.needs_input_grad[1]:
            back_factor = (grad * wide).mul_(scale).flatten(0, -2).sum(dim=0)
        if not ctx.needs_input_grad[0]:
            return None, back_factor, None
        back = grad * factor
        # scale depends on x too: d scale / d x = -scale^3 x / width
        along = torch.linalg.vecdot(back, wide).unsqueeze(-1)
        along.mul_(scale.pow(3)).div_(-x.shape[-1])
        return back.mul_(scale).addcmul_(wide, along).to(x.dtype), back_factor, None


def quicken(network: nn.Module) -> list[nn.Module]:
    """Have every norm that this is found to compute do so; returns them."""
    found = []
    for module in network.modules():
        if type(module).__name__.endswith("RMSNorm"):
            offset = _offset(module)
            if offset is not None:
                module.forward = _forward(module, offset)
                found.append(module)
    return found


def _offset(module: nn.Module) -> float | None:
    """What it adds to its weight, found by trying; None: it computes something else."""
    weight, eps = getattr(module, "weight", None), _eps(module)
    if not isinstance(weight, Tensor) or weight.ndim != 1 or eps is None:
        return None
    # Of one token, in steps: no random number is drawn that training would have drawn.
    x = torch.linspace(-2, 3, len(weight), device=weight.device, dtype=weight.dtype)[None]
    with torch.no_grad():
        theirs = module(x)
        apart = {offset: distance(_norm(x, weight, offset, eps), theirs) for offset in (0.0, 1.0)}
    nearest = min(apart, key=apart.__getitem__)
    return nearest if apart[nearest] <= close(weight.dtype) else None


def _eps(module: nn.Module) -> float | None:
    for name in ("variance_epsilon", "eps"):
        value = getattr(module, name, None)
        if isinstance(value, float):
            return value
    return None


def _forward(module: Any, offset: float) -> Any:
    eps = _eps(module)
    assert eps is not None

    def forward(hidden_states: Tensor) -> Tensor:
        return _norm(hidden_states, module.weight, offset, eps)

    return forward


def _norm(x: Tensor, weight: Tensor, offset: float, eps: float) -> Tensor:
    if offset:  # which 8 bits of mantissa would round
        weight = weight.to(torch.promote_types(torch.float32, weight.dtype)) + offset
    normed: Tensor = _Norm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    x, weight = x.detach(), weight.detach()
    return cheap(normed, lambda: _computed(x, weight, eps)[0])


def _computed(x: Tensor, factor: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm of x, and what each token was scaled by."""
    wide = x.to(torch.promote_types(torch.float32, x.dtype))
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    scale = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (wide * scale).mul_(factor).to(x.dtype), scale
