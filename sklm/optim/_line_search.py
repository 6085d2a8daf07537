"""How far to go along a step that was rejected as a whole."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from .._parameters import Parameters
from ._damping import Trial


class LineSearch(Parameters, ABC):
    """Tries several rates along the rejected steps, all of them in one forward pass."""

    @abstractmethod
    def rates(self) -> list[float]:
        """Return the rates to try, m shares of the step.

        Raises
        ------
        ValueError
            If the parameters make no sense; called before the first iteration.
        """

    @abstractmethod
    def choose(self, trial: Trial, objectives: Tensor, rates: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Return the number (b,) of the rate to take, and whether to take it (b,) bool.

        Of the b models that rejected their step: ``trial`` is that of the whole step, ``objectives`` (b, m) those of
        the rates (m,), not finite where a trial failed, and ``slope`` (b,) is the gradient times the step. The loop
        takes no rate at which the objective does not fall.
        """


class RateSearch(LineSearch):
    """The best of a few rates.

    Parameters
    ----------
    n_rates : int, default=5
        1/2, 1/4, ...: so many.
    factor : float, default=0.5
        From one rate to the next.

    Raises
    ------
    ValueError
        If ``n_rates`` is not positive or ``factor`` is not between 0 and 1.

    Notes
    -----
    Line search over the learning rate, after a step that raised the objective (Pooladzandi & Zhou, arXiv:2212.08769,
    algorithm 2).
    """

    def __init__(self, n_rates: int = 5, factor: float = 0.5):
        self.n_rates = n_rates
        self.factor = factor

    def rates(self) -> list[float]:
        return _powers(self.n_rates, self.factor)

    def choose(self, trial: Trial, objectives: Tensor, rates: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        lowest, number = torch.where(objectives < torch.inf, objectives, torch.inf).min(1)
        return number, lowest < trial.objective


class Armijo(LineSearch):
    """Back-tracking: the first of the falling rates with a sufficient decrease.

    Parameters
    ----------
    n_rates : int, default=10
        Largest number of reductions.
    factor : float, default=0.5
        Of every reduction.
    decrease : float, default=1e-4
        Share of the decrease along the tangent that is sufficient.

    Raises
    ------
    ValueError
        If ``n_rates`` is not positive, or ``factor`` or ``decrease`` is not between 0 and 1.

    Notes
    -----
    ``F(theta + r d) <= F(theta) + decrease r gradient^T d`` (Armijo 1966, Minimization of functions having Lipschitz
    continuous first partial derivatives; Nocedal & Wright 2006, algorithm 3.1). All rates are computed at once. A
    direction that does not descend is left.
    """

    def __init__(self, n_rates: int = 10, factor: float = 0.5, decrease: float = 1e-4):
        self.n_rates = n_rates
        self.factor = factor
        self.decrease = decrease

    def rates(self) -> list[float]:
        if not 0 < self.decrease < 1:
            raise ValueError(f"decrease must be above 0 and below 1; got {self.decrease!r}.")
        return _powers(self.n_rates, self.factor)

    def choose(self, trial: Trial, objectives: Tensor, rates: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        enough = objectives <= trial.objective[:, None] + self.decrease * slope[:, None] * rates
        failures = (~enough).to(torch.int64).cumprod(1).sum(1)  # before the first success
        return failures.clamp_max(len(rates) - 1), (failures < len(rates)) & (slope < 0)


def _powers(n_rates: int, factor: float) -> list[float]:
    if n_rates < 1 or not 0 < factor < 1:
        raise ValueError(f"n_rates must be positive and factor above 0 and below 1; got {n_rates!r} and {factor!r}.")
    return [factor**k for k in range(1, n_rates + 1)]


LINE_SEARCHES: dict[str, Callable[[], LineSearch]] = {"rate": RateSearch, "armijo": Armijo}
