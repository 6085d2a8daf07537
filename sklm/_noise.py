"""What the points of a curve say about its noise before any fit."""

from __future__ import annotations

import numpy as np

#: neighbours two places away may say so many times as much, else the curve itself varies between them; and fewer points
#: say too little
VARIES, LEAST_POINTS = 1.5, 50


def noise_of_curve(x: np.ndarray, Y: np.ndarray) -> float | None:
    """Mean square of the noise of Y (N, K) over x (N,), summed over its columns; None where that cannot be told.

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
    return near if wider <= VARIES * near else None


def _from_line(x: np.ndarray, Y: np.ndarray, step: int) -> float:
    """The estimate with the neighbours ``step`` places before and after."""
    before, at, after = x[: -2 * step], x[step:-step], x[2 * step :]
    gap = after - before
    share = np.where(gap > 0, (at - before) / np.where(gap > 0, gap, 1.0), 0.5)[:, None]
    left = (1 - share) * Y[: -2 * step] + share * Y[2 * step :] - Y[step:-step]
    return float(np.sum(np.mean(left**2 / ((1 - share) ** 2 + share**2 + 1), axis=0)))
