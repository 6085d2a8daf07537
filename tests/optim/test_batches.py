from itertools import islice

import numpy as np
import pytest

from sklm.optim import MiniBatches

SIZES = [(10, 3), (10, 10), (10, 9), (10, 1), (7, 100), (1, 1), (1001, 100)]


def epochs(n_samples, batch_size, n_epochs, seed=0):
    batches = MiniBatches(n_samples, batch_size, seed)
    taken = list(islice(batches, n_epochs * batches.n_batches))
    return [taken[i : i + batches.n_batches] for i in range(0, len(taken), batches.n_batches)]


@pytest.mark.parametrize(("n_samples", "batch_size"), SIZES)
def test_every_row_once_an_epoch_in_batches_that_differ_by_one_row_at_most(n_samples, batch_size):
    for epoch in epochs(n_samples, batch_size, 3):
        index = [rows for rows, _ in epoch]
        np.testing.assert_array_equal(np.sort(np.concatenate(index)), np.arange(n_samples))
        lengths = {len(rows) for rows in index}
        assert max(lengths) <= batch_size
        assert max(lengths) - min(lengths) <= 1
        assert len(index) == -(-n_samples // batch_size)
        assert [ends for _, ends in epoch] == [False] * (len(index) - 1) + [True]


def test_a_new_order_every_epoch_and_the_same_for_the_same_seed():
    orders = [np.concatenate([rows for rows, _ in epoch]).tolist() for epoch in epochs(50, 10, 4)]
    assert len({tuple(order) for order in orders}) == 4
    again = [np.concatenate([rows for rows, _ in epoch]).tolist() for epoch in epochs(50, 10, 4)]
    assert orders == again
    other = [np.concatenate([rows for rows, _ in epoch]).tolist() for epoch in epochs(50, 10, 4, seed=1)]
    assert orders != other
