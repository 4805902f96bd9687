import pytest
import torch
from torch import Tensor

from ftd.worker.train.compute import product

LARGE = 256  # squared and times itself: more than product.SMALL


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("by_onednn", [True, False])
@pytest.mark.parametrize(
    ("x", "matrix"),
    [
        (numbers(LARGE, LARGE), numbers(300, LARGE)),
        (numbers(LARGE, LARGE).T, numbers(300, LARGE)),
        (numbers(LARGE, LARGE), numbers(LARGE, 300).T),
        (numbers(LARGE, LARGE).T, numbers(LARGE, 300).T),
        (numbers(LARGE, 2 * LARGE)[:, ::2], numbers(300, LARGE)),
        (numbers(1, LARGE).expand(LARGE, LARGE), numbers(300, LARGE)),
        (numbers(3, LARGE), numbers(5, LARGE)),
    ],
    ids=["plain", "turned", "matrix turned", "both turned", "with gaps", "expanded", "small"],
)
def test_products_are_those_of_exact_arithmetic(
    monkeypatch: pytest.MonkeyPatch, x: Tensor, matrix: Tensor, *, by_onednn: bool
) -> None:
    monkeypatch.setattr(product, "_by_onednn", lambda: by_onednn)
    bias = numbers(len(matrix))
    exact = x.double() @ matrix.double().T + bias.double()
    found = product.times(x, matrix, bias)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-4)


def test_other_precisions_are_kept() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        x, matrix = numbers(LARGE, LARGE).to(dtype), numbers(LARGE, LARGE).to(dtype)
        torch.testing.assert_close(product.times(x, matrix), x @ matrix.T)


def test_the_library_is_chosen_by_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {}
    for vendor in ("GenuineIntel", "AuthenticAMD"):
        monkeypatch.setattr(product, "_processor", lambda vendor=vendor: f"vendor_id : {vendor}")
        product._by_onednn.cache_clear()
        chosen[vendor] = product._by_onednn()
    product._by_onednn.cache_clear()
    assert chosen == {"GenuineIntel": False, "AuthenticAMD": torch.backends.mkldnn.is_available()}
