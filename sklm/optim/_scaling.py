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

#: least entry of 'running_maximum'
FLOOR = 0.01


def identity(diagonal: Tensor, largest: Tensor) -> Tensor:
    """D = I (Levenberg 1944). Right for standardised data.

    One number seen under the shape (B, P): its strides, all zero, tell a solver that D is the same everywhere.
    """
    return constant(1.0, diagonal).expand(diagonal.shape)


def marquardt(diagonal: Tensor, largest: Tensor) -> Tensor:
    """D = diag(J^T J) (Marquardt 1963): steps do not depend on the units of the parameters."""
    return _positive(diagonal)


def more(diagonal: Tensor, largest: Tensor) -> Tensor:
    """D = largest diag(J^T J) so far (More 1978, section 5): parameters cannot escape where J vanishes."""
    return _positive(largest)


def running_maximum(diagonal: Tensor, largest: Tensor) -> Tensor:
    """D = largest diag(J^T J) so far, at least 0.01 (Pooladzandi & Zhou, arXiv:2212.08769, section 3).

    Between 'identity' and 'more': parameters of little influence are damped as if they had some (Transtrum & Sethna,
    arXiv:1201.5885, section 2). diag(J^T J) is that of the mean loss.
    """
    return largest.clamp_min(FLOOR)


def _positive(diagonal: Tensor) -> Tensor:
    # entries that rounding alone explains count as zero columns
    top = diagonal.amax(1, keepdim=True)
    top = top.where(top > 0, torch.ones_like(top))
    return diagonal.where(diagonal > torch.finfo(diagonal.dtype).tiny, top)


SCALINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": identity,
    "marquardt": marquardt,
    "more": more,
    "running_maximum": running_maximum,
}
