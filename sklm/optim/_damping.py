"""Damping strategies: who accepts a trial step, and what the next damping is.

A strategy is a small object without state of its own. Two methods, each for all models at once:

``start(damping)``
    called once with the first damping (B,); returns a dict of tensors with leading axis B, the strategy's memory.
``update(trial, memory)``
    called after every trial step; returns ``accept`` (B,) bool, the next ``damping`` (B,) and the next memory.

The loop adds what no strategy may forget: a non-finite trial is never accepted, a failed factorisation is a
rejection, the damping stays within its limits, and a rejection leaves the parameters exactly as they were.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .._constant import constant
from .._parameters import Parameters

Memory = dict[str, Tensor]


@dataclass
class Trial:
    """What is known after a trial step. All (B,).

    Attributes
    ----------
    objective, trial_objective
        Before and after; the latter is infinite for a trial that is not finite or could not be computed.
    predicted
        Reduction the quadratic model promised, positive.
    gain_ratio
        Actual over predicted reduction; minus infinity or NaN for an impossible trial.
    damping
        The damping that made the step.
    """

    objective: Tensor
    trial_objective: Tensor
    predicted: Tensor
    gain_ratio: Tensor
    damping: Tensor


@runtime_checkable
class DampingStrategy(Protocol):
    """See the module's docstring for when each method is called."""

    def start(self, damping: Tensor) -> Memory: ...
    def update(self, trial: Trial, memory: Memory) -> tuple[Tensor, Tensor, Memory]: ...


class GainRatio(Parameters):
    """Nielsen's rule, the default: the better the quadratic model, the more the damping falls.

    Parameters
    ----------
    decrease : float, default=3.0
        The damping falls by at most this factor on acceptance.

    Notes
    -----
    On acceptance ``damping *= max(1 / decrease, 1 - (2 rho - 1)^3)`` and ``nu = 2``, on rejection
    ``damping *= nu`` and ``nu *= 2`` (Nielsen, IMM-REP-1999-05, eq. 2.5; Madsen, Nielsen & Tingleff 2004, p. 14).
    """

    def __init__(self, decrease: float = 3.0):
        self.decrease = decrease

    def start(self, damping: Tensor) -> Memory:
        return {"growth": torch.full_like(damping, 2.0)}

    def update(self, trial: Trial, memory: Memory) -> tuple[Tensor, Tensor, Memory]:
        growth, ratio = memory["growth"], trial.gain_ratio
        accept = ratio > 0
        one = constant(1.0, ratio)
        slope = torch.sub(ratio, one).add_(ratio)  # 2 rho - 1
        shrink = torch.addcmul(one, slope, slope * slope, value=-1).clamp_(min=1 / self.decrease)
        return (
            accept,
            trial.damping * shrink.where(accept, growth),
            {"growth": torch.where(accept, constant(2.0, growth), growth + growth)},
        )


class Multiplicative(Parameters):
    """Fixed factors: the classical rule of Levenberg and Marquardt, of MATLAB and of torch-levenberg-marquardt.

    Parameters
    ----------
    decrease : float, default=10.0
        The damping is divided by this on acceptance.
    increase : float, default=10.0
        The damping is multiplied by this on rejection.
    """

    def __init__(self, decrease: float = 10.0, increase: float = 10.0):
        self.decrease = decrease
        self.increase = increase

    def start(self, damping: Tensor) -> Memory:
        return {}

    def update(self, trial: Trial, memory: Memory) -> tuple[Tensor, Tensor, Memory]:
        accept = trial.trial_objective < trial.objective
        return accept, torch.where(accept, trial.damping / self.decrease, trial.damping * self.increase), memory


class DelayedGratification(Multiplicative):
    """Raise the damping by little, lower it by more, so that the path follows narrow valleys.

    Parameters
    ----------
    decrease : float, default=3.0
    increase : float, default=2.0

    Notes
    -----
    Factors 2 and 3 for small problems, 1.5 and 5 for larger ones: Transtrum & Sethna, arXiv:1201.5885, section 2.
    """

    def __init__(self, decrease: float = 3.0, increase: float = 2.0):
        super().__init__(decrease, increase)


class TrustRegion(Parameters):
    """Thresholds of the gain ratio: grow, keep or shrink, as the radius of a trust region.

    Parameters
    ----------
    decrease : float, default=2.0
        The damping is divided by this where the gain ratio is above ``high``.
    increase : float, default=4.0
        It is multiplied by this where the ratio is below ``low``.
    low, high : float, default=0.25 and 0.75
    accept_above : float, default=1e-4
        A step is taken where the ratio exceeds this.

    Raises
    ------
    ValueError
        If not ``0 <= accept_above < low <= high``, or a factor is not above 1.

    Notes
    -----
    Nocedal & Wright, Numerical Optimization, 2nd ed. 2006, algorithm 4.1: the radius is quartered below 1/4 and doubled
    above 3/4, and a step is taken above a small eta in [0, 1/4). Fletcher 1971 (A modified Marquardt subroutine for
    non-linear least squares, AERE-R 6799) applies the same thresholds to the damping, the inverse of the radius.
    """

    def __init__(
        self,
        decrease: float = 2.0,
        increase: float = 4.0,
        low: float = 0.25,
        high: float = 0.75,
        accept_above: float = 1e-4,
    ):
        self.decrease = decrease
        self.increase = increase
        self.low = low
        self.high = high
        self.accept_above = accept_above

    def start(self, damping: Tensor) -> Memory:
        if not (0 <= self.accept_above < self.low <= self.high and min(self.decrease, self.increase) > 1):
            raise ValueError(f"TrustRegion needs 0 <= accept_above < low <= high and factors above 1; got {self!r}.")
        return {}

    def update(self, trial: Trial, memory: Memory) -> tuple[Tensor, Tensor, Memory]:
        ratio = trial.gain_ratio
        kept = torch.where(ratio > self.high, trial.damping / self.decrease, trial.damping)
        damping = torch.where(ratio >= self.low, kept, trial.damping * self.increase)  # false for NaN
        return ratio > self.accept_above, damping, memory


STRATEGIES: dict[str, type] = {
    "gain_ratio": GainRatio,
    "multiplicative": Multiplicative,
    "delayed_gratification": DelayedGratification,
    "trust_region": TrustRegion,
}
