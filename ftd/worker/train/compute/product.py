"""Matrix products by the library that is quickest on this processor.

torch multiplies matrices of float32 with MKL, which keeps its AVX-512 kernels for Intel's own
processors. oneDNN, which comes with torch too, has them for everybody: on a Zen 5 it is 2.2 times
as fast.
"""

import functools
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

# Multiplications of a product from which on oneDNN is quicker, which makes a kernel of each shape.
SMALL = 2**22


def times(x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """x matrix' + bias, of x (rows, in) and matrix (out, in): (rows, out). Not differentiable."""
    if x.shape[0] * matrix.numel() >= SMALL and _is_plain(x) and _is_plain(matrix) and _by_onednn():
        multiply = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001 - it has no public name
        product: Tensor = multiply(x, matrix, bias, "none", [], "")
        return product
    return functional.linear(x, matrix, bias)


def _is_plain(matrix: Tensor) -> bool:
    """Whether oneDNN has a quick kernel for it, not just any."""
    dense = matrix.is_contiguous() or matrix.T.is_contiguous()
    return dense and matrix.device.type == "cpu" and matrix.dtype == torch.float32


@functools.cache
def _by_onednn() -> bool:
    """The same in every run on this processor: it decides the last bits of what is trained."""
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and "GenuineIntel" not in _processor()


def _processor() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except FileNotFoundError:
        return ""
