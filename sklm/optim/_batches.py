"""Which rows an iteration works on, and how much of the earlier ones it remembers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

#: while few batches have gone by, the last 1 / so much of them count in the curvature and in the average of iterates
EARLY_STEPS, EARLY_ITERATES = 6, 5
#: rows over which iterates are averaged, relative to those of the curvature
ITERATES_MEMORY = 2


class MiniBatches:
    """Shuffled batches of nearly equal size, a new order every epoch.

    Rows are divided into ``ceil(N / batch_size)`` batches that differ by one row at most, so that no short last
    batch counts more than its share. Iterating yields ``(index, ends_epoch)`` forever.

    Parameters
    ----------
    n_samples, batch_size : int
    seed : int
        Of the order.
    memory : int, optional
        Rows over which the Gauss-Newton matrix and the iterates are averaged; None forgets after every batch.

    Notes
    -----
    With a memory of M rows and batches of b rows, step t has the rate ``r = max(b / M, 6 / (t + 5))``. The matrix is
    ``A = (1 - r) A + r gram`` and the step ``-r (A + r damping D)^-1 gradient``. For a linear model and a rate of 1/t
    that is recursive least squares, with the first damping as a prior that is seen once: it falls with 1/t (Ljung &
    Soderstrom 1983, section 2.2; a constant rate is their forgetting factor, section 2.6). The rate falls more slowly
    than 1/t because early steps are linearised far from the solution. The parameters that are kept are averages of the
    iterates over 2 M rows (Polyak & Juditsky 1992), in the beginning over about the last fifth of the steps
    (polynomial-decay averaging: Shamir & Zhang 2013, Stochastic gradient descent for non-smooth optimization).
    """

    def __init__(self, n_samples: int, batch_size: int, seed: int, memory: int | None = None):
        self.n_batches = -(-n_samples // batch_size)
        self.n_samples = n_samples
        self.memory = memory
        self._rng = np.random.default_rng(seed)

    @property
    def largest(self) -> int:
        """Rows of the largest batch."""
        return -(-self.n_samples // self.n_batches)

    #: what was averaged before the first batch
    average: Any = None

    def rate(self, step: int) -> float:
        """Weight of step number ``step`` (from 1) against all earlier ones; 1 without memory."""
        if self.memory is None:
            return 1.0
        return max(min(1.0, self.n_samples / self.n_batches / self.memory), EARLY_STEPS / (step + EARLY_STEPS - 1))

    def iterate_rate(self, step: int) -> float:
        """The same for the average of the iterates."""
        if self.memory is None:
            return 1.0
        share = self.n_samples / self.n_batches / (ITERATES_MEMORY * self.memory)
        return max(min(1.0, share), EARLY_ITERATES / (step + EARLY_ITERATES - 1))

    def __iter__(self) -> Iterator[tuple[np.ndarray, bool]]:
        while True:
            order = self._rng.permutation(self.n_samples)
            for number, index in enumerate(np.array_split(order, self.n_batches)):
                yield index, number == self.n_batches - 1


class Stream(MiniBatches):
    """Rows that are one batch of a stream: a step on them goes as far as they count beside those before.

    Parameters
    ----------
    n_samples : int
        All are in the batch.
    n_rows : float
        What they count for, n.
    memory : int
        Rows M over which the Gauss-Newton matrix is averaged.
    seen : float
        Rows of all batches before.
    n_parameters : int
    damping : float
        A prior that is seen as if with P rows, and not forgotten: where rows are all alike for long, what they do not
        tell stays as it is (the wind-up of recursive least squares: Ljung & Soderstrom 1983, section 5.6).
    average : system or None
        The matrix of the batches before.

    Attributes
    ----------
    latest : system or None
        The matrix with this batch, once a step was accepted.

    Notes
    -----
    The rate is ``n / max(P, min(M, seen / 6 + n))``, and 1 at most: that of :class:`MiniBatches` where batches are
    equal and have at least as many rows as there are parameters. Fewer rows never make a full step, which would fit
    them and forget the others.
    """

    def __init__(
        self,
        n_samples: int,
        n_rows: float,
        memory: int,
        seen: float,
        n_parameters: int,
        damping: float,
        average: Any,
    ):
        super().__init__(n_samples, n_samples, 0, memory)
        counted = max(float(n_parameters), min(float(memory), seen / EARLY_STEPS + n_rows))
        self.share = min(1.0, n_rows / counted)
        self.least_damping: float = damping * max(1.0, n_parameters / n_rows)
        self.least_damping *= min(1.0, counted / min(seen + n_rows, float(memory)))
        self.average = average
        self.latest = average

    def spread(self, level: float) -> None:
        """Take all rows before for a multiple ``level`` of the identity, where no matrix is kept.

        ``((1 - r) level I + r gram)^-1 r gradient`` is a full step with the damping ``level (1 - r) / r``.
        """
        self.least_damping = max(self.least_damping, level * (1 - self.share) / self.share)
        self.share = 1.0

    def rate(self, step: int) -> float:
        return self.share

    def iterate_rate(self, step: int) -> float:
        return 1.0
