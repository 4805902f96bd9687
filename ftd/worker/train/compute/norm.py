"""Root-mean-square norms in few passes over memory (Zhang and Sennrich 2019).

    y = x r f          r = 1 / sqrt(mean(x^2) + eps) of each token; f = w, or 1 + w in Gemma's

Written out in a library's small steps, a norm's way there and back reads and writes the hidden
states some twenty times, which on a processor takes five times as long as the arithmetic.
"""

from typing import Any

import torch
from torch import Tensor, nn

_CLOSE = 1e-5  # relative; a norm of another kind is further away than rounding


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor, eps: float) -> Tensor:
        wide = x.to(torch.promote_types(torch.float32, x.dtype))
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, factor, scale)
        y: Tensor = (wide * scale).mul_(factor).to(x.dtype)
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


def quicken(network: nn.Module) -> int:
    """Have every norm that this is found to compute do so; returns how many."""
    kinds: dict[type[nn.Module], float | None] = {}
    found = 0
    for module in network.modules():
        kind = type(module)
        if not kind.__name__.endswith("RMSNorm"):
            continue
        if kind not in kinds:
            kinds[kind] = _offset(module)
        offset = kinds[kind]
        if offset is not None:
            module.forward = _forward(module, offset)
            found += 1
    return found


def _offset(module: nn.Module) -> float | None:
    """What this kind adds to its weight, found by trying; None: it computes something else."""
    weight, eps = getattr(module, "weight", None), _eps(module)
    if not isinstance(weight, Tensor) or weight.ndim != 1 or eps is None:
        return None
    # Of one token, in steps: no random number is drawn that training would have drawn.
    x = torch.linspace(-2, 3, len(weight), device=weight.device, dtype=weight.dtype)[None]
    with torch.no_grad():
        expected = module(x).float()
        for offset in (0.0, 1.0):
            ours = _Norm.apply(x, weight + offset, eps).float()  # type: ignore[no-untyped-call]
            apart = float((ours - expected).norm() / expected.norm())
            if apart <= max(_CLOSE, 4 * torch.finfo(weight.dtype).eps):
                return offset
    return None


def _eps(module: nn.Module) -> float | None:
    for name in ("variance_epsilon", "eps"):
        value = getattr(module, name, None)
        if isinstance(value, float):
            return value
    return None


def _forward(module: Any, offset: float) -> Any:
    eps = _eps(module)

    def forward(hidden_states: Tensor) -> Tensor:
        factor = module.weight if offset == 0.0 else module.weight + offset
        normed: Tensor = _Norm.apply(hidden_states, factor, eps)  # type: ignore[no-untyped-call]
        return normed

    return forward
