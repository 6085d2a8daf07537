"""What the points of a curve say about its noise before any fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: neighbours two places away may say so many times as much, else the curve itself varies between them; fewer points say
#: too little to be sure, and still fewer nothing
VARIES, CERTAIN_POINTS, LEAST_POINTS = 1.5, 50, 40
#: the median of the square is 0.45 times its mean for normal noise, and far less where a curve jumps
FEW_JUMPS = 0.1


@dataclass(frozen=True)
class Noise:
    """What neighbours leave unexplained: an upper limit of the noise, and the noise itself where it ``is_certain``.

    ``mean`` and ``median`` are those of its square, summed over the outputs, in the units of the targets squared or of
    a loss; the median does not depend on the few points where a curve jumps.
    """

    mean: float
    median: float
    is_certain: bool

    def times(self, factor: float) -> Noise:
        """The same in other units."""
        return Noise(factor * self.mean, factor * self.median, self.is_certain)


def noise_of_curve(x: np.ndarray, Y: np.ndarray) -> Noise | None:
    """The noise of Y (N, K) over x (N,); None for too few points.

    Notes
    -----
    Every point is compared with the line through its two neighbours (Gasser, Sroka & Jennen-Steinmetz 1986, Residual
    variance and residual pattern in nonlinear regression, Biometrika 73, pp. 625-633). What the curve bends between
    them is taken for noise: with neighbours twice as far away that is sixteen times as much, and noise is the same.
    """
    if len(x) < LEAST_POINTS:
        return None
    order = np.argsort(x, kind="stable")
    near, wider = (_from_line(x[order], Y[order], step) for step in (1, 2))
    mean, median = float(near.mean()), float(np.median(near))
    alike = wider.mean() <= VARIES * mean and median >= FEW_JUMPS * mean
    return Noise(mean, median, len(x) >= CERTAIN_POINTS and bool(alike))


def _from_line(x: np.ndarray, Y: np.ndarray, step: int) -> np.ndarray:
    """Estimates (N - 2 step,) by single points, with the neighbours ``step`` places before and after."""
    before, at, after = x[: -2 * step], x[step:-step], x[2 * step :]
    gap = after - before
    share = np.where(gap > 0, (at - before) / np.where(gap > 0, gap, 1.0), 0.5)[:, None]
    left = (1 - share) * Y[: -2 * step] + share * Y[2 * step :] - Y[step:-step]
    return np.asarray(np.sum(left**2 / ((1 - share) ** 2 + share**2 + 1), axis=1))
