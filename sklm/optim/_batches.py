"""Which rows an iteration works on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


class MiniBatches:
    """Shuffled batches of nearly equal size, a new order every epoch.

    Rows are divided into ``ceil(N / batch_size)`` batches that differ by one row at most, so that no short last
    batch counts more than its share. Iterating yields ``(index, ends_epoch)`` forever.
    """

    def __init__(self, n_samples: int, batch_size: int, seed: int):
        self.n_batches = -(-n_samples // batch_size)
        self.n_samples = n_samples
        self._rng = np.random.default_rng(seed)

    def __iter__(self) -> Iterator[tuple[np.ndarray, bool]]:
        while True:
            order = self._rng.permutation(self.n_samples)
            for number, index in enumerate(np.array_split(order, self.n_batches)):
                yield index, number == self.n_batches - 1
