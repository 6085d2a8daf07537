"""Problems as data: what the engine is tested on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sklm.architectures import MLP, MLPNetwork, ModuleArchitecture, Network
from sklm.losses import SquaredError
from sklm.optim import Problem, make_problem


@dataclass(frozen=True)
class Case:
    """A small multilayer perceptron on noisy data; the same numbers at every call.

    The data are a network's own outputs plus noise. Seeds are those for which the optimum is well determined and is
    found from every start near the truth.
    """

    name: str
    hidden: tuple[int, ...]
    n_samples: int
    n_inputs: int = 1
    n_outputs: int = 1
    activation: str = "tanh"
    noise: float = 0.03
    seed: int = 22

    def __str__(self) -> str:
        return self.name

    def network(self) -> MLPNetwork:
        return MLP(self.hidden, self.activation).build(self.n_inputs, self.n_outputs)

    def truth(self) -> Tensor:
        """The parameters (1, P) that made the data."""
        return 2 * tensor(np.random.default_rng(self.seed).normal(size=(1, self.network().n_parameters)))

    def data(self) -> tuple[Tensor, Tensor]:
        """X (N, F) and y (N, K)."""
        rng = np.random.default_rng(11)
        X = tensor(rng.uniform(-2, 2, (self.n_samples, self.n_inputs)))
        outputs = self.network().forward(self.truth(), X.mT.contiguous()).outputs[0].mT
        return X, outputs + self.noise * tensor(rng.normal(size=outputs.shape))

    def starts(self, n_models: int = 1, seed: int = 3, near: float = 0.0) -> Tensor:
        """Starting points (B, P): standard normal, or the truth plus ``near`` times that."""
        draws = tensor(np.random.default_rng(seed).normal(size=(n_models, self.network().n_parameters)))
        return self.truth() + near * draws if near else draws

    def problem(self, n_models: int = 1, **options: Any) -> Problem:
        X, y = self.data()
        return make_problem(self.network(), SquaredError(), X, y, n_models=n_models, **options)


CASES = {
    case.name: case
    for case in (
        Case("plane", hidden=(), n_samples=12, n_inputs=3, n_outputs=2),
        Case("curve", hidden=(3,), n_samples=40),
        Case("surface", hidden=(4, 3), n_samples=60, n_inputs=2, n_outputs=3, seed=12),
        Case("wide", hidden=(12,), n_samples=9, n_inputs=3, n_outputs=2),
    )
}
PLANE, CURVE, SURFACE, WIDE = CASES.values()


class Formula(nn.Module):
    """``function(x, b1, b2, ...)`` of one input, with named scalar parameters."""

    def __init__(self, function: Any, start: tuple[float, ...]):
        super().__init__()
        self.function = function
        for number, value in enumerate(start, start=1):
            self.register_parameter(f"b{number}", nn.Parameter(torch.tensor(float(value), dtype=torch.float64)))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x[:, 0], *self.parameters())


@dataclass(frozen=True)
class Nist:
    """A problem of the NIST Statistical Reference Datasets for non-linear regression, with certified results.

    Published starting points, and the certified parameters and residual sum of squares.
    """

    name: str
    function: Any = field(repr=False)
    x: tuple[float, ...]
    y: tuple[float, ...]
    starts: tuple[tuple[float, ...], ...]
    parameters: tuple[float, ...]
    residual_sum: float

    def network(self, start: int = 0) -> Network:
        return ModuleArchitecture(Formula(self.function, self.starts[start])).build(1, 1)

    def data(self) -> tuple[Tensor, Tensor]:
        return tensor(self.x)[:, None], tensor(self.y)[:, None]

    def problem(self, start: int = 0, **options: Any) -> Problem:
        return make_problem(self.network(start), SquaredError(), *self.data(), **options)


NIST = {
    case.name: case
    for case in (
        Nist(
            "Misra1a",
            lambda x, b1, b2: b1 * (1 - torch.exp(-b2 * x)),
            x=(77.6, 114.9, 141.1, 190.8, 239.9, 289.0, 332.8, 378.4, 434.8, 477.3, 536.8, 593.1, 689.1, 760.0),
            y=(10.07, 14.73, 17.94, 23.93, 29.61, 35.18, 40.02, 44.82, 50.76, 55.05, 61.01, 66.40, 75.47, 81.78),
            starts=((500.0, 0.0001), (250.0, 0.0005)),
            parameters=(2.3894212918e02, 5.5015643181e-04),
            residual_sum=1.2455138894e-01,
        ),
        Nist(
            "BoxBOD",
            lambda x, b1, b2: b1 * (1 - torch.exp(-b2 * x)),
            x=(1, 2, 3, 5, 7, 10),
            y=(109, 149, 149, 191, 213, 224),
            starts=((100.0, 0.75),),  # from the other one, (1, 1), MINPACK runs away too
            parameters=(2.1380940889e02, 5.4723748542e-01),
            residual_sum=1.1680088766e03,
        ),
        Nist(
            "Rat42",
            lambda x, b1, b2, b3: b1 / (1 + torch.exp(b2 - b3 * x)),
            x=(9, 14, 21, 28, 42, 57, 63, 70, 79),
            y=(8.93, 10.80, 18.59, 22.33, 39.35, 56.11, 61.73, 64.62, 67.08),
            starts=((100.0, 1.0, 0.1), (75.0, 2.5, 0.07)),
            parameters=(7.2462237576e01, 2.6180768402e00, 6.7359200066e-02),
            residual_sum=8.0565229338e00,
        ),
    )
}


def tensor(values: Any) -> Tensor:
    """A float64 tensor on the CPU, whatever the defaults."""
    return torch.tensor(np.asarray(values, dtype=np.float64), dtype=torch.float64, device="cpu")
