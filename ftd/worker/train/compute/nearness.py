"""How near what we compute is to what a model's own code computes."""

import torch
from torch import Tensor


def distance(ours: Tensor, theirs: Tensor) -> float:
    """The norm of the difference as a part of theirs; not a number if either holds one."""
    ours, theirs = ours.float(), theirs.float()
    return float((ours - theirs).norm() / theirs.norm())


def close(dtype: torch.dtype) -> float:
    """Up to which distance one layer's results differ by rounding alone."""
    return max(1e-5, 4 * torch.finfo(dtype).eps)
