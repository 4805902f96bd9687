"""Adapted layers without waste: one autograd function for the frozen matrix and its two small ones.

    y = x W' + b + s (x A') B'          W (out, in) frozen, A (rank, in) and B (out, rank) trained

Composed of a library's modules this makes three tensors as large as y and scaled copies, and
autograd adds the two ways back to x in a fourth. Here the small products are added in place, and x
is kept once. The parameters stay PEFT's own, so that it saves and loads them as ever.
"""

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn

from ftd.worker.train.compute.product import times

ADAPTER = "default"  # PEFT's name for an adapter that nobody named


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scaling: float,
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        small = times(flat, a)
        y = times(flat, weight, bias)
        y.addmm_(small, b.T, alpha=scaling)
        ctx.save_for_backward(flat, weight, a, b, small)
        ctx.scaling = scaling
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight, a, b, small = ctx.saved_tensors
        dy = grad.reshape(-1, grad.shape[-1])
        # Transposed: matrix products are quicker where the long side of the result is its last.
        grad_b = times(small.T, dy.T).mul_(ctx.scaling).T
        back = times(dy, b.T).mul_(ctx.scaling)
        grad_a = times(back.T, flat.T)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = times(dy, weight.T).addmm_(back, a).view(*grad.shape[:-1], flat.shape[-1])
        return grad_x, None, None, grad_a, grad_b, None


def quicken(network: nn.Module) -> list[nn.Module]:
    """Have every adapted layer that this can compute do so; returns them. Others, with dropout or
    of another kind, stay as they are."""
    found = [module for module in network.modules() if _is_plain(module)]
    for module in found:
        module.forward = _forward(module)
    return found


def _is_plain(module: Any) -> bool:
    return (
        type(module) is Linear
        and type(module.base_layer) is nn.Linear
        and not any(weight.requires_grad for weight in module.base_layer.parameters())
        and module.active_adapters == [ADAPTER]
        and not module.lora_variant
        and not module.lora_bias[ADAPTER]
        and isinstance(module.lora_dropout[ADAPTER], nn.Identity)
    )


def _forward(module: Any) -> Any:
    base = module.base_layer
    a, b = module.lora_A[ADAPTER], module.lora_B[ADAPTER]
    scaling = module.scaling[ADAPTER]

    def forward(x: Tensor) -> Tensor:
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        else:
            dtype = torch.promote_types(x.dtype, base.weight.dtype)
        y: Tensor = _Adapted.apply(  # type: ignore[no-untyped-call]
            x.to(dtype),
            base.weight.to(dtype),
            None if base.bias is None else base.bias.to(dtype),
            a.weight.to(dtype),
            b.weight.to(dtype),
            scaling,
        )
        return y

    return forward
