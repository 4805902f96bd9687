"""What is forgotten is made again, and nothing else is."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ftd.worker.train.compute.again import cheap, thrifty


def double(x: Tensor, made: list[int]) -> Tensor:
    twice, given = 2 * x, x.detach()

    def again() -> Tensor:
        made.append(1)
        return 2 * given

    return cheap(twice, again)


def gradient(compute: Callable[[Tensor], Tensor]) -> Tensor:
    x = torch.linspace(1, 2, 6).view(2, 3).requires_grad_()
    with thrifty():
        y = compute(x)
    y.sum().backward()
    assert x.grad is not None
    return x.grad


def test_a_forgotten_tensor_is_made_once_for_all_that_ask_in_a_row() -> None:
    made: list[int] = []

    def compute(x: Tensor) -> Tensor:
        twice = double(x, made)
        return (twice * twice).sum() + (twice.view(-1) ** 3).sum()

    x = torch.linspace(1, 2, 6).view(2, 3)
    torch.testing.assert_close(gradient(compute), 8 * x + 24 * x**2)
    assert made == [1]


def test_a_tensor_that_was_changed_since_is_kept() -> None:
    made: list[int] = []

    def compute(x: Tensor) -> Tensor:
        twice = double(x, made)
        twice += 1
        return twice**2

    x = torch.linspace(1, 2, 6).view(2, 3)
    torch.testing.assert_close(gradient(compute), 4 * (2 * x + 1))
    assert made == []


def test_another_tensor_at_the_same_address_is_kept() -> None:
    def compute(x: Tensor) -> Tensor:
        place = torch.arange(6.0).view(2, 3)
        first = place.detach().requires_grad_()
        cheap(first, lambda: -place)
        del first  # its place is free for the next
        return x * place.detach()

    torch.testing.assert_close(gradient(compute), torch.arange(6.0).view(2, 3))


def test_a_part_of_a_tensor_is_kept() -> None:
    made: list[int] = []
    grad = gradient(lambda x: (double(x, made)[:1] ** 2).sum())
    torch.testing.assert_close(grad, torch.tensor([[8.0, 9.6, 11.2], [0, 0, 0]]))
    assert made == []


def test_the_bits_of_a_tensor_as_other_numbers_are_kept() -> None:
    """Such as a library's kernel keeps them."""

    class Bits(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x.view(torch.int32))
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
            (bits,) = ctx.saved_tensors
            return grad * bits.view(torch.float32)

    made: list[int] = []
    x = torch.linspace(1, 2, 6).view(2, 3)
    torch.testing.assert_close(gradient(lambda x: Bits.apply(double(x, made))), 4 * x)
    assert made == []


def test_elsewhere_everything_is_kept() -> None:
    made: list[int] = []
    x = torch.ones(3, requires_grad=True)
    (double(x, made) ** 2).sum().backward()
    assert made == []
    torch.testing.assert_close(x.grad, torch.full((3,), 8.0))
