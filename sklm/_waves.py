"""Curves that are sums of waves: frequencies by least squares, and the network of sines that a fit starts from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

#: noise would have a peak as high with less than this probability; so many waves at most, and points a parameter
CHANCE, MOST_WAVES, POINTS_PER_PARAMETER = 1e-3, 24, 3
#: waves of more points are looked for in so many of them, drawn at random
MOST_POINTS = 4000
#: less than this share of the sum of squares is nothing
NOTHING = 1e-26
#: waves that go up and down at least so many times between the first point and the last explain at least this share of
#: what a line leaves: decays and saturations are sums of slower ones and of some that count for little
LEAST_CYCLES, OSCILLATES = 2.0, 0.02
#: frequencies are looked for up to this share of half a wave a place, in so many steps for each wave over the range
HIGHEST, STEPS = 0.98, 4
#: cells that the range is divided into for that: for each point, and at most
CELLS, MOST_CELLS = 16, 2**20
#: points nearer to each other than this share of the mean distance are one place: what is between places nobody knows
APART = 0.1
#: up to so many gaps that are so many times as wide as the next one are no part of the range that points cover
GAPS, WIDE = 3, 10.0
#: ... if it is no more than so many times as long
MOST_STRETCH = 1000.0
#: where places are so many times as dense without all gaps that are as wide beside the middle one, waves that are as
#: much faster are looked for, too: of two that leave much the same the slower one is more likely
DENSER, CLEARLY = 1.5, 0.5
#: beside a peak, waves are tried in so many steps for each over the range, some at once
LOBE_STEPS, LOBES_AT_ONCE = 8, 256
#: ... of every second point, or third ..., where these times points are more, as long as there are so many
NEARBY_WORK, LEAST_NEARBY = 4_000_000, 300
#: corrections of all frequencies after each further wave
CORRECTIONS = 10
#: a slope is a sine that turns by so many radians within the range; it counts where the logarithm of the likelihood
#: rises by so much
TURN, LIKELIER = 0.05, 5.0


@dataclass(frozen=True)
class Waves:
    """Angular frequencies (m,) of waves, whether there is a slope, and whether these are all that there are."""

    frequencies: np.ndarray
    slopes: bool
    are_all: bool = True

    def n_units(self, n_outputs: int) -> int:
        """Sines that the waves and the slope are made of."""
        return len(self.frequencies) * min(n_outputs, 2) + self.slopes

    def times(self, factor: float) -> Waves:
        """The same for x that is multiplied by a factor."""
        return replace(self, frequencies=self.frequencies / factor)

    def within(self, n_units: int, n_outputs: int) -> Waves:
        """As many of them, the highest first, as so many sines are enough for."""
        frequencies = self.frequencies[: n_units // min(n_outputs, 2)]
        flat = Waves(frequencies, False)
        return replace(flat, slopes=self.slopes and 0 < flat.n_units(n_outputs) < n_units)


def find_waves(x: np.ndarray, Y: np.ndarray, weights: np.ndarray) -> Waves | None:
    """The waves that Y (N, K) over x (N,) consists of, with weights (N,) of the points; None if it does not.

    Notes
    -----
    One wave after the other is added at the peak of the periodogram of what is left, and the frequencies of all are
    corrected together (Gauss-Newton on the separable problem: Golub & Pereyra 1973, SIAM Journal on Numerical Analysis
    10, pp. 413-432). A wave counts if noise would seldom have a peak as high: with p parameters a share of z of what is
    left is explained by chance with the probability ``(1 - z)^((N - p) / 2)`` at each of about N frequencies (Scargle
    1982, Astrophysical Journal 263, pp. 835-853, for known variances).
    """
    x, Y, weights = _distinct(x - _middle(x), Y, weights)
    root, total = np.sqrt(weights)[:, None], _spread(Y, weights)
    if np.ptp(x) == 0 or total == 0:
        return None
    n_points = weights.sum() ** 2 / np.sum(weights**2)  # as many of equal weights say as much
    waves, least = None, np.inf
    for covered, n_places in _coverages(x, n_points):
        found, left, are_all = _added(x, Y, root, NOTHING * total, n_points, covered, n_places)
        if left < CLEARLY * least:
            is_fast = np.abs(found) * covered >= 2 * np.pi * LEAST_CYCLES
            waves, least = _with_slope(x, Y, root, NOTHING * total, n_points, found, is_fast, are_all), left
    return waves


def _added(
    x: np.ndarray, Y: np.ndarray, root: np.ndarray, nothing: float, n_points: float, covered: float, n_places: float
) -> tuple[np.ndarray, float, bool]:
    """Frequencies (m,) that count, the sum of squares that they leave, and whether there are no more.

    Points cover some of the range, at so many places.
    """
    found, are_all, stretch = np.empty(0), True, np.ptp(x) / covered
    left = _fitted(x, Y, root, found, slopes=True)[1]
    while np.sum(left**2) > nothing:
        n_parameters = 2 + 3 * (len(found) + 1)
        peak = _peak(x, root * left, n_places, stretch)
        peak = _highest_nearby(x, left, root * _columns(x, found, slopes=True), root, peak, covered)
        tried = _corrected(x, Y, root, np.append(found, peak))
        if np.abs(tried).max() * covered > np.pi * n_places:
            break
        now = _fitted(x, Y, root, tried, slopes=True)[1]
        share, freedom = np.sum(now**2) / np.sum(left**2), (n_points - n_parameters) / 2  # outputs may have one noise
        if not np.log(n_points * stretch) + freedom * np.log(max(share, 1e-300)) < np.log(CHANCE):
            break
        if n_places < POINTS_PER_PARAMETER * n_parameters or len(found) == MOST_WAVES:
            are_all = False
            break
        found, left = tried, now
    return found, float(np.sum(left**2)), are_all


def _with_slope(
    x: np.ndarray,
    Y: np.ndarray,
    root: np.ndarray,
    nothing: float,
    n_points: float,
    found: np.ndarray,
    is_fast: np.ndarray,
    are_all: bool,
) -> Waves | None:
    """The waves with these frequencies (m,), and a slope if there is one; None if it does not oscillate."""

    def left(frequencies: np.ndarray, slopes: bool = True) -> float:
        return float(np.sum(_fitted(x, Y, root, frequencies, slopes)[1] ** 2))

    least = left(found)
    if not is_fast.any() or left(found[~is_fast]) - least < OSCILLATES * left(found[:0]):
        return None
    gain = np.log((left(found, slopes=False) + nothing) / (least + nothing))
    return Waves(found, bool(n_points / 2 * gain > LIKELIER), are_all)


def as_parameters(waves: Waves, x: np.ndarray, Y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Parameters (P,) of a hidden layer of ``waves.n_units`` sines and a linear output layer that are the waves."""
    n_outputs, n_waves, middle = Y.shape[1], len(waves.frequencies), _middle(x)
    coefficients = _fitted(x - middle, Y, np.sqrt(weights)[:, None], waves.frequencies, waves.slopes)[0]
    constant, slopes = coefficients[0], coefficients[1 : 1 + waves.slopes]
    sines, cosines = coefficients[1 + waves.slopes :].reshape(2, n_waves, n_outputs)
    inputs, zero = waves.frequencies, np.zeros(n_waves)
    if n_outputs == 1:
        biases, outputs = np.arctan2(cosines[:, 0], sines[:, 0]), np.hypot(sines, cosines)
    else:
        inputs, biases, outputs = np.tile(inputs, 2), np.r_[zero, zero + np.pi / 2], np.vstack([sines, cosines])
    if waves.slopes:
        turn = TURN / np.ptp(x)
        inputs, biases, outputs = np.r_[inputs, turn], np.r_[biases, 0.0], np.vstack([outputs, slopes / turn])
    return np.r_[inputs, biases - inputs * middle, outputs.T.ravel(), constant]


def as_start(theta: np.ndarray, waves: Waves, n_units: int, x: np.ndarray, Y: np.ndarray, weights: np.ndarray) -> None:
    """Put waves into the parameters (P,) of a hidden layer of ``n_units`` sines, in place; other units are silent.

    Nothing is done where it has fewer units than one wave takes.
    """
    n_outputs = Y.shape[1]
    waves = waves.within(n_units, n_outputs)
    used = waves.n_units(n_outputs)
    if not used:
        return
    found = as_parameters(waves, x, Y, weights)
    inputs, biases, outputs, constants = np.split(found, used * np.array([1, 2, 2 + n_outputs]))
    theta[:used], theta[n_units : n_units + used] = inputs, biases
    heights = np.zeros((n_outputs, n_units))
    heights[:, :used] = outputs.reshape(n_outputs, used)
    theta[2 * n_units :] = np.r_[heights.ravel(), constants]


def losses_left_out(
    x: np.ndarray, Y: np.ndarray, weights: np.ndarray, of_row: np.ndarray, n_held_out: int
) -> np.ndarray | None:
    """Mean losses (n_held_out,), half the squares, of folds left out, by the waves of the other points.

    ``of_row`` (N,) are the numbers of the folds. None if the others have none.
    """
    x, losses = x - _middle(x), []
    for fold in range(n_held_out):
        out = of_row == fold
        rest = (x[~out], Y[~out], weights[~out])
        waves = find_waves(*rest)
        if waves is None:
            return None
        coefficients = _fitted(rest[0], rest[1], np.sqrt(rest[2])[:, None], waves.frequencies, waves.slopes)[0]
        errors = Y[out] - _columns(x[out], waves.frequencies, waves.slopes) @ coefficients
        losses.append(np.average(np.mean(errors**2, axis=1) / 2, weights=weights[out]))
    return np.array(losses)


def _middle(x: np.ndarray) -> float:
    return float(x.min() + x.max()) / 2


def _spread(Y: np.ndarray, weights: np.ndarray) -> float:
    """The weighted sum of squares of Y (N, K) around its means."""
    return float(np.sum(weights[:, None] * (Y - np.average(Y, axis=0, weights=weights)) ** 2))


def _distinct(x: np.ndarray, Y: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points that differ, with the sums of their weights: a row that is repeated says no more than one that weighs."""
    rows, which = np.unique(np.c_[x, Y], axis=0, return_inverse=True)
    return rows[:, 0], rows[:, 1:], np.bincount(which.reshape(-1), weights, len(rows))


def _coverages(x: np.ndarray, n_points: float) -> list[tuple[float, float]]:
    """Lengths that sorted x (N,) covers, and numbers of places in these.

    The first is without a few gaps that are wide beside the next one, the second, if points are much denser there,
    without all that are wide beside the middle one.
    """
    gaps = np.diff(x)
    widest = np.sort(gaps)[::-1][: GAPS + 1]
    few = WIDE * widest[-1] if len(gaps) > GAPS and widest[-1] > 0 else np.inf
    coverages: list[tuple[float, float]] = []
    for limit in (few, WIDE * np.median(gaps[gaps > 0])):
        near = gaps[gaps <= limit]
        covered = float(near.sum())
        if gaps.sum() > MOST_STRETCH * covered:
            near, covered = gaps, float(gaps.sum())
        n_places = min(1.0 + int(np.sum(near > APART * covered / len(x))), n_points)
        if not coverages or n_places / covered > DENSER * coverages[0][1] / coverages[0][0]:
            coverages.append((covered, n_places))
    return coverages


def _fitted(
    x: np.ndarray, Y: np.ndarray, root: np.ndarray, frequencies: np.ndarray, slopes: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of the columns of :func:`_columns`, and what they leave of Y, both times roots (N, 1) of weights."""
    columns = root * _columns(x, frequencies, slopes)
    coefficients = np.linalg.lstsq(columns, root * Y, rcond=None)[0]
    return coefficients, root * Y - columns @ coefficients


def _columns(x: np.ndarray, frequencies: np.ndarray, slopes: bool) -> np.ndarray:
    """A constant, x where there are slopes, the sines and the cosines: (N, 1 or 2 + 2 m)."""
    phases = x[:, None] * frequencies
    return np.hstack([np.ones((len(x), 1)), x[:, None][:, : int(slopes)], np.sin(phases), np.cos(phases)])


def _peak(x: np.ndarray, left: np.ndarray, n_places: float, stretch: float) -> float:
    """The frequency of the highest peak of the periodogram of weighted residuals (N, K), from a fine histogram.

    The range of x is so many times what points cover.
    """
    n_cells = 2 ** int(np.ceil(np.log2(min(CELLS * len(x) * stretch, MOST_CELLS))))
    step = np.ptp(x) / (n_cells - 1)
    cells = np.rint((x - x.min()) / step).astype(int)
    histograms = [np.bincount(cells, column, n_cells) for column in left.T]
    power = np.sum(np.abs(np.fft.rfft(histograms, STEPS * n_cells)) ** 2, axis=0)
    highest = int(min(HIGHEST * STEPS * n_places * stretch / 2, STEPS * n_cells / 2))
    place = 1 + int(np.argmax(power[1 : highest + 1]))
    return 2 * np.pi * place / (STEPS * n_cells * step)


def _highest_nearby(
    x: np.ndarray, left: np.ndarray, columns: np.ndarray, root: np.ndarray, peak: float, covered: float
) -> float:
    """The frequency by which a wave explains most of what columns (N, q) leave, with roots of weights (N, 1).

    Across wide gaps the periodogram has many peaks of about one height beside each other.
    """
    number = int(np.ceil(LOBE_STEPS * np.ptp(x) / covered))
    if number <= 1.2 * LOBE_STEPS:
        return peak
    step = 2 * np.pi / (LOBE_STEPS * np.ptp(x))
    near = peak + step * np.arange(-number, number + 1)
    near = near[near > 0]
    every = max(min(len(x) * len(near) // NEARBY_WORK, len(x) // LEAST_NEARBY), 1)
    x, left, columns, root = (part[::every] for part in (x, left, columns, root))
    basis, gains = np.linalg.qr(columns)[0], []
    for some in np.array_split(near, -(-len(near) // LOBES_AT_ONCE)):
        parts = np.stack([root * np.sin(x[:, None] * some), root * np.cos(x[:, None] * some)])  # (2, N, m)
        parts -= basis @ (basis.T @ parts)
        products, matrix = np.einsum("inm,nk->mik", parts, left), np.einsum("inm,jnm->mij", parts, parts)
        matrix += np.finfo(float).eps * np.trace(matrix, axis1=1, axis2=2).max() * np.eye(2)
        gains.append(np.einsum("mik,mik->m", products, np.linalg.solve(matrix, products)))
    gain = np.concatenate(gains)
    bend, rise = gain[:-2] - 2 * gain[1:-1] + gain[2:], gain[2:] - gain[:-2]  # of parabolas
    top = (gain[1:-1] >= gain[:-2]) & (gain[1:-1] >= gain[2:]) & (bend < 0)
    if not top.any():
        return float(near[gain.argmax()])
    vertex = np.where(top, -rise / (2 * np.where(top, bend, -1.0)), 0.0)
    best = int(np.where(top, gain[1:-1] + rise * vertex / 4, -np.inf).argmax())
    return float(near[1 + best] + step * vertex[best])


def _corrected(x: np.ndarray, Y: np.ndarray, root: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Frequencies that leave less, by Gauss-Newton steps."""
    coefficients, left = _fitted(x, Y, root, frequencies, slopes=True)
    for _ in range(CORRECTIONS):
        columns = root * _columns(x, frequencies, slopes=True)
        sines, cosines = columns[:, 2:].reshape(len(x), 2, -1).swapaxes(0, 1)
        by_sine, by_cosine = coefficients[2:].reshape(2, len(frequencies), -1)
        moved = x[:, None, None] * (cosines[:, :, None] * by_sine - sines[:, :, None] * by_cosine)
        basis = np.linalg.qr(columns)[0]
        moved -= np.tensordot(basis, np.tensordot(basis, moved, (0, 0)), (1, 0))
        matrix = moved.swapaxes(1, 2).reshape(-1, len(frequencies))
        tried = frequencies + np.linalg.lstsq(matrix, left.ravel(), rcond=None)[0]
        new_coefficients, now = _fitted(x, Y, root, tried, slopes=True)
        if not np.sum(now**2) < np.sum(left**2):
            break
        frequencies, coefficients, left = tried, new_coefficients, now
    return frequencies
