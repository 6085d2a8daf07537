"""Products of which only the lower triangle is formed."""

import numpy as np
import pytest
import torch

from sklm.optim import _solvers
from sklm.optim._linear import TRIANGLE_BLOCKS, TRIANGLE_LEAST, TRIANGLE_SIZE, add_lower


@pytest.mark.parametrize(
    "size", [1, TRIANGLE_SIZE - 1, TRIANGLE_SIZE, TRIANGLE_SIZE + 1, TRIANGLE_BLOCKS * TRIANGLE_LEAST + 9]
)
def test_the_lower_triangle_of_a_sum_of_products(size):
    rng = torch.Generator().manual_seed(0)
    first, second = (torch.randn(2, size, n, dtype=torch.float64, generator=rng) for n in (5, 9))
    total = add_lower(None, first, first.mT)
    same = add_lower(total, second, second.mT)
    assert same.data_ptr() == total.data_ptr()
    expected = np.tril((first @ first.mT + second @ second.mT).numpy())
    np.testing.assert_allclose(np.tril(same.numpy()), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("smallest", [2, 10**6])
@pytest.mark.parametrize("low", [0, 4])
def test_rows_of_separate_outputs(low, smallest, monkeypatch):
    """Three outputs with two parameters of their own each, in the order of a layer's weights and biases."""
    monkeypatch.setattr(_solvers, "TRIANGLE_SIZE", smallest)
    monkeypatch.setattr(_solvers, "SEPARATE_OUTPUTS", 2)
    places = low + np.array([[0, 3], [1, 4], [2, 5]])
    rng = torch.Generator().manual_seed(0)
    accumulator, expected = _solvers.Cholesky().accumulator(torch.zeros(2, low + 6)), 0
    for n in (5, 3):
        rows = torch.randn(2, low + 7, 3, n, dtype=torch.float64, generator=rng)
        for k, own in enumerate(places):
            rows[:, own] = torch.where(torch.arange(3)[:, None] == k, rows[:, own], 0.0)
        expected += rows.flatten(2) @ rows.flatten(2).mT
        accumulator.add_separable(rows, places)
    system = accumulator.finish(torch.zeros(2, low + 6, dtype=torch.float64), None)
    np.testing.assert_allclose(system.gram.tril(), expected[:, :-1, :-1].tril(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(system.gradient, expected[:, -1, :-1], rtol=1e-12)
    np.testing.assert_allclose(system.diagonal, expected.diagonal(dim1=1, dim2=2)[:, :-1], rtol=1e-12)
