"""Activation functions with the two derivatives that Levenberg-Marquardt needs.

The first derivative builds the Jacobian, the second the geodesic acceleration. Both are written in terms of the
activation's value wherever that is possible, so that the pre-activation need not be kept.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .._constant import constant


class Activation(Protocol):
    """Element-wise function ``a = phi(z)`` of any shape.

    ``first`` and ``second`` return ``phi'`` and ``phi''`` from ``saved``, which is ``a`` or, if ``keeps_input``,
    ``z``. ``value`` writes into ``out``, which may be ``z`` itself unless ``keeps_input``. ``second`` receives
    ``first`` as well because most formulas reuse it. ``active_range`` is the half-width
    of the interval of ``z`` in which the function is usefully curved (used by Nguyen-Widrow starts).
    ``module`` is the equal ``torch.nn`` module.
    """

    name: str
    keeps_input: bool
    active_range: float

    def value(self, z: Tensor, out: Tensor) -> Tensor: ...
    def first(self, saved: Tensor, out: Tensor | None = None) -> Tensor: ...
    def second(self, saved: Tensor, first: Tensor) -> Tensor: ...
    def module(self) -> torch.nn.Module: ...


#: with AVX-512 numpy's tanh takes a fifth of the time of torch's (a twelfth in single precision) on one thread, else as
#: long or longer
NUMPY_IS_FAST = torch.backends.cpu.get_cpu_capability() == "AVX512"
#: torch shares an operation among threads in pieces of so many elements: from so many pieces on its tanh is as fast
PIECE, MANY_PIECES = 32_768, 8


class Tanh:
    """On a CPU numpy's, where that is faster than torch's."""

    name, keeps_input, active_range = "tanh", False, 1.0

    def value(self, z: Tensor, out: Tensor) -> Tensor:
        many = min(torch.get_num_threads(), z.numel() // PIECE) >= MANY_PIECES
        if many or not NUMPY_IS_FAST or z.device.type != "cpu":
            return torch.tanh(z, out=out)
        np.tanh(z.numpy(), out=out.numpy())
        return out

    def first(self, saved: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.addcmul(constant(1.0, saved), saved, saved, value=-1, out=out)

    def second(self, saved: Tensor, first: Tensor) -> Tensor:
        return torch.mul(saved, first).mul_(constant(-2.0, saved))

    def module(self) -> torch.nn.Module:
        return torch.nn.Tanh()


class Logistic:
    name, keeps_input, active_range = "logistic", False, 2.0

    def value(self, z: Tensor, out: Tensor) -> Tensor:
        return torch.sigmoid(z, out=out)

    def first(self, saved: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.addcmul(saved, saved, saved, value=-1, out=out)

    def second(self, saved: Tensor, first: Tensor) -> Tensor:
        return torch.addcmul(first, first, saved, value=-2)

    def module(self) -> torch.nn.Module:
        return torch.nn.Sigmoid()


class Relu:
    name, keeps_input, active_range = "relu", False, 1.0

    def value(self, z: Tensor, out: Tensor) -> Tensor:
        return torch.clamp(z, min=0, out=out)

    def first(self, saved: Tensor, out: Tensor | None = None) -> Tensor:
        return (saved > 0).to(saved.dtype)

    def second(self, saved: Tensor, first: Tensor) -> Tensor:
        return torch.zeros_like(saved)

    def module(self) -> torch.nn.Module:
        return torch.nn.ReLU()


class Softplus:
    """``log(1 + exp(z))`` for every ``z``: stable where the naive formula overflows."""

    name, keeps_input, active_range = "softplus", True, 2.0

    def value(self, z: Tensor, out: Tensor) -> Tensor:
        return torch.logaddexp(z, constant(0.0, z), out=out)

    def first(self, saved: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.sigmoid(saved, out=out)

    def second(self, saved: Tensor, first: Tensor) -> Tensor:
        return torch.addcmul(first, first, first, value=-1)

    def module(self) -> torch.nn.Module:
        # torch's own threshold of 20 would return z itself there, 2e-9 off
        return torch.nn.Softplus(threshold=50.0)


class Elu:
    name, keeps_input, active_range = "elu", False, 1.0

    def value(self, z: Tensor, out: Tensor) -> Tensor:
        return torch.ops.aten.elu.out(z, out=out)

    def first(self, saved: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.add(saved, 1, out=out).clamp_(max=1)

    def second(self, saved: Tensor, first: Tensor) -> Tensor:
        return torch.where(saved > 0, 0.0, first)

    def module(self) -> torch.nn.Module:
        return torch.nn.ELU()


class Silu:
    """``z * sigmoid(z)``, also called swish."""

    name, keeps_input, active_range = "silu", True, 2.0

    def value(self, z: Tensor, out: Tensor) -> Tensor:
        return torch.sigmoid(z, out=out).mul_(z)

    def first(self, saved: Tensor, out: Tensor | None = None) -> Tensor:
        s = torch.sigmoid(saved)
        return s * (1 + saved * (1 - s))

    def second(self, saved: Tensor, first: Tensor) -> Tensor:
        s = torch.sigmoid(saved)
        return s * (1 - s) * (2 + saved * (1 - 2 * s))

    def module(self) -> torch.nn.Module:
        return torch.nn.SiLU()


class SineModule(torch.nn.Module):
    """``sin(x)`` as a module, for ``to_module`` of networks with ``activation='sin'``."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


class Sine:
    name, keeps_input, active_range = "sin", True, 1.0

    def value(self, z: Tensor, out: Tensor) -> Tensor:
        return torch.sin(z, out=out)

    def first(self, saved: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.cos(saved, out=out)

    def second(self, saved: Tensor, first: Tensor) -> Tensor:
        return -torch.sin(saved)

    def module(self) -> torch.nn.Module:
        return SineModule()


class Identity:
    name, keeps_input, active_range = "identity", False, 1.0

    def value(self, z: Tensor, out: Tensor) -> Tensor:
        return z if out is z else out.copy_(z)

    def first(self, saved: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.ones_like(saved)

    def second(self, saved: Tensor, first: Tensor) -> Tensor:
        return torch.zeros_like(saved)

    def module(self) -> torch.nn.Module:
        return torch.nn.Identity()


ACTIVATIONS: dict[str, Activation] = {
    activation.name: activation
    for activation in (Tanh(), Logistic(), Relu(), Softplus(), Elu(), Silu(), Sine(), Identity())
}


def check_activation(name: object) -> None:
    """Raise ValueError if ``name`` is none of ``ACTIVATIONS``."""
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {sorted(ACTIVATIONS)}; got {name!r}.")
