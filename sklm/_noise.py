"""What the points of a curve say about its noise before any fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

#: neighbours two places away may say so many times as much, else the curve itself varies between them; fewer points say
#: too little to be sure, and still fewer nothing
VARIES, CERTAIN_POINTS, LEAST_POINTS = 1.5, 50, 40
#: the median of the square is 0.45 times its mean for normal noise, and far less where a curve jumps
FEW_JUMPS = 0.1
#: noise that goes on from point to point gives half of what follows for neighbours three places away, were it a curve
#: that bends, from those one and two places away
SMOOTH = 0.6
#: ... and medians of both that are more than so many times that of neighbours
GOES_ON = 1.75


@dataclass(frozen=True)
class Noise:
    """What neighbours leave unexplained: an upper limit of the noise, and the noise itself where it ``is_certain``.

    ``mean`` and ``median`` are those of its square, summed over the outputs, in the units of the targets squared or of
    a loss; the median does not depend on the few points where a curve jumps. ``limits_mean`` and ``limits_median`` are
    false where noise seems to go on from point to point, so that neighbours know less of it than there is.
    """

    mean: float
    median: float
    is_certain: bool
    limits_mean: bool = True
    limits_median: bool = True

    def times(self, factor: float) -> Noise:
        """The same in other units."""
        return replace(self, mean=factor * self.mean, median=factor * self.median)


def noise_of_curve(x: np.ndarray, Y: np.ndarray) -> Noise | None:
    """The noise of Y (N, K) over x (N,); None for too few points.

    Notes
    -----
    Every point is compared with the line through its two neighbours (Gasser, Sroka & Jennen-Steinmetz 1986, Residual
    variance and residual pattern in nonlinear regression, Biometrika 73, pp. 625-633). What the curve bends between
    them is taken for noise: with neighbours twice as far away that is sixteen times as much, where points are evenly
    spaced, and noise is the same.
    """
    if len(x) < LEAST_POINTS:
        return None
    order = np.argsort(x, kind="stable")
    x = (x - x.mean()) / (np.ptp(x) or 1.0)
    x, Y = x[order], Y[order]
    estimates = [_from_line(x, Y, step) for step in (1, 2, 3)]
    mean, twice, three_times = (float(part.mean()) for part in estimates)
    median, *medians = (float(np.median(part)) for part in estimates)
    alike = twice <= VARIES * mean
    is_certain = len(x) >= CERTAIN_POINTS and alike and median >= FEW_JUMPS * mean
    bent, bent_twice, bent_three_times = (float(_from_line(x, x[:, None] ** 2, step).mean()) for step in (1, 2, 3))
    bends = (twice - mean) / (bent_twice - bent) if bent_twice > bent else 0.0
    smooth = three_times >= SMOOTH * (mean + bends * (bent_three_times - bent))
    return Noise(mean, median, is_certain, alike or smooth, float(np.mean(medians)) <= GOES_ON * median)


def _from_line(x: np.ndarray, Y: np.ndarray, step: int) -> np.ndarray:
    """Estimates (N - 2 step,) by single points, with the neighbours ``step`` places before and after."""
    before, at, after = x[: -2 * step], x[step:-step], x[2 * step :]
    gap = after - before
    share = np.where(gap > 0, (at - before) / np.where(gap > 0, gap, 1.0), 0.5)[:, None]
    left = (1 - share) * Y[: -2 * step] + share * Y[2 * step :] - Y[step:-step]
    return np.asarray(np.sum(left**2 / ((1 - share) ** 2 + share**2 + 1), axis=1))
