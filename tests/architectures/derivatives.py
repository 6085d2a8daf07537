"""What every network is asked for, against autograd: checks that run on a :class:`Setting`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklm.architectures import Network

from .. import reference
from ..problems import tensor


@dataclass
class Setting:
    """A network, its inputs, autograd's derivatives of it, model by model, and how close they must be."""

    network: Any
    theta: Tensor
    X: Tensor
    direction: Tensor
    outputs: Tensor
    jacobian: Tensor
    bend: Tensor
    rtol: float

    @classmethod
    def of(
        cls,
        network: Network,
        function: Callable[[Tensor], reference.Function],
        theta: Tensor,
        X: Tensor,
        direction: Tensor,
        rtol: float = 1e-10,
    ) -> Setting:
        """``function(rows (n, F))`` is the slow function ``theta (P,) -> outputs (n, K)``; X is (F, n) or (B, F, n)."""
        parts = []
        for model, (parameters, along) in enumerate(zip(theta, direction, strict=True)):
            slow = function(X.mT if X.ndim == 2 else X[model].mT)
            parts.append(
                (
                    slow(parameters).mT.detach(),
                    reference.jacobian(slow, parameters).transpose(0, 1),
                    reference.bend(slow, parameters, along).mT,
                )
            )
        outputs, jacobian, bend = (torch.stack(part) for part in zip(*parts, strict=True))
        return cls(network, theta, X, direction, outputs, jacobian, bend, rtol)

    def close(self, got: Tensor, expected: Tensor) -> None:
        close(got, expected, self.rtol)

    def forward(self) -> Any:
        return self.network.forward(self.theta, self.X)

    def cotangents(self, *columns: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
        """Random cotangents (first, K, R, n) for every (first, R), and the rows (B, P, R, n) that they give."""
        rng, pairs = np.random.default_rng(0), []
        for first, n_columns in columns:
            u = tensor(rng.normal(size=(first, self.outputs.shape[1], n_columns, self.outputs.shape[-1])))
            all_models = u.expand(len(self.theta), -1, -1, -1)
            pairs.append((u, torch.einsum("bknp,bkrn->bprn", self.jacobian, all_models)))
        return pairs


def close(got: Tensor, expected: Tensor, rtol: float = 1e-10) -> None:
    """Compare numbers, dtype and shape."""
    torch.testing.assert_close(got, expected, rtol=rtol, atol=rtol / 100)


def pullback(network: Network, theta: Tensor, X: Tensor, forward: Any, cotangents: Tensor) -> Tensor:
    """Rows (B, P, R, n) in what the engine gives: a view of rows one longer, in memory (B, n, R, P + 1)."""
    n_columns, n = cotangents.shape[2:]
    buffer = torch.full((len(theta), n, n_columns, network.n_parameters + 1), torch.nan, dtype=theta.dtype)
    rows = buffer.permute(0, 3, 2, 1)
    network.pullback(theta, X, forward, cotangents, rows[:, :-1])
    assert rows[:, -1].isnan().all()
    return rows[:, :-1]


def check_forward(s: Setting) -> None:
    s.close(s.forward().outputs, s.outputs)
    s.close(s.network.forward(s.theta, s.X, derivatives=False).outputs, s.outputs)


def check_pullback(s: Setting) -> None:
    """One column, R = 3, R = K and one set for all models, into rows laid out either way."""
    forward, (n_models, n_outputs) = s.forward(), s.outputs.shape[:2]
    for cotangents, expected in s.cotangents((n_models, 1), (n_models, 3), (1, n_outputs)):
        s.close(pullback(s.network, s.theta, s.X, forward, cotangents), expected)
        plain = torch.full_like(expected, torch.nan).contiguous()
        s.network.pullback(s.theta, s.X, forward, cotangents, plain)
        s.close(plain, expected)


def check_vjp(s: Setting) -> None:
    cotangent = tensor(np.random.default_rng(0).normal(size=s.outputs.shape))
    expected = torch.einsum("bknp,bkn->bp", s.jacobian, cotangent)
    s.close(s.network.vjp(s.theta, s.X, s.forward(), cotangent), expected)


def check_jvp(s: Setting) -> None:
    expected = torch.einsum("bknp,bp->bkn", s.jacobian, s.direction)
    s.close(s.network.jvp(s.theta, s.X, s.forward(), s.direction), expected)


def check_second_directional(s: Setting) -> None:
    s.close(s.network.second_directional(s.theta, s.X, s.forward(), s.direction), s.bend)


def check_reuse(s: Setting) -> None:
    """An old forward pass, whose memory is taken, changes nothing."""
    for scale, derivatives in ((1, True), (2, True), (2, False)):
        old = s.network.forward(3 * s.theta + 1, scale * s.X, derivatives=derivatives)
        new = s.network.forward(s.theta, s.X, reuse=old)
        torch.testing.assert_close(new.outputs, s.forward().outputs, rtol=0, atol=0)
        s.close(s.network.vjp(s.theta, s.X, new, torch.ones_like(s.outputs)), s.jacobian.sum((1, 2)))
        s.close(s.network.second_directional(s.theta, s.X, new, s.direction), s.bend)


def check_layer_factors(s: Setting) -> None:
    """They multiply out to the rows."""
    forward, (n_models, n_outputs) = s.forward(), s.outputs.shape[:2]
    for cotangents, expected in s.cotangents((n_models, 1), (n_models, 2), (1, n_outputs)):
        layers = list(s.network.layer_factors(s.theta, s.X, forward, cotangents))
        s.close(reference.multiplied_out(layers, s.network.n_parameters), expected)
        floats = sum(layer.inputs[0, 0].numel() + layer.cotangents[0, 0, 0].numel() for layer in layers)
        assert floats == s.network.layer_floats
        assert all(s.network.coefficient_mask[layer.weight].all() for layer in layers)
        assert not any(s.network.coefficient_mask[layer.bias].any() for layer in layers)


#: what every network has, and what one of dense and convolutional layers has besides
NETWORK_CHECKS = [check_forward, check_pullback, check_vjp, check_jvp, check_second_directional, check_reuse]
LAYER_CHECKS = [*NETWORK_CHECKS, check_layer_factors]
