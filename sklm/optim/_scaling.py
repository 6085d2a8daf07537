"""Damping scaling: the diagonal D in ``gram + damping * D``.

A scaling is a function ``(diagonal, largest) -> D`` of the current diagonal of the Gauss-Newton matrix (B, P) and
the element-wise largest one so far (B, P). Zero columns get the largest entry of D: any positive value gives them a
zero step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._constant import constant


def identity(diagonal: Tensor, largest: Tensor) -> Tensor:
    """D = I (Levenberg 1944). Right for standardised data.

    One number seen under the shape (B, P): its strides, all zero, tell a solver that D is the same everywhere.
    """
    return constant(1.0, diagonal).expand(diagonal.shape)


def marquardt(diagonal: Tensor, largest: Tensor) -> Tensor:
    """D = diag(J^T J) (Marquardt 1963): steps do not depend on the units of the parameters."""
    return _positive(diagonal)


def running_maximum(diagonal: Tensor, largest: Tensor) -> Tensor:
    """D = largest diag(J^T J) so far (More 1978, section 5): parameters cannot escape where J vanishes."""
    return _positive(largest)


def _positive(diagonal: Tensor) -> Tensor:
    # entries that rounding alone explains count as zero columns
    top = diagonal.amax(1, keepdim=True)
    top = top.where(top > 0, torch.ones_like(top))
    return diagonal.where(diagonal > torch.finfo(diagonal.dtype).tiny, top)


SCALINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": identity,
    "marquardt": marquardt,
    "more": running_maximum,
}
