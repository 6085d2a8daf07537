"""When two fits may share a run."""

import functools

import numpy as np
import pytest
import torch

from sklm import CNN, MLP, LMRegressor
from sklm._prepared import CannotBatchError, comparable, run_together
from sklm.losses import Huber, Quantile
from sklm.optim import GainRatio, Multiplicative


def function(x):
    return x


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (1, np.int64(1), 1.0),
        (True, np.bool_(True), 1),
        ("a", "a", None),
        ((2, 3), (2, 3), [2, 3]),
        (np.arange(3), np.arange(3), np.arange(3.0)),
        ({"a": [1], "b": 2}, {"b": 2, "a": [1]}, {"a": [1], "b": 3}),
        (MLP((3, 4)), MLP((3, 4)), MLP((3, 5))),
        (CNN(2, 3, input_shape=(1, 6, 6)), CNN(2, 3, input_shape=(1, 6, 6)), CNN(3, 3, input_shape=(1, 6, 6))),
        (Huber(0.5), Huber(0.5), Huber(0.6)),
        (Huber(0.5), Huber(0.5), Quantile(0.5)),
        (GainRatio(), GainRatio(3.0), Multiplicative()),
        (function, function, lambda x: x),
    ],
)
def test_equal_is_what_has_equal_values(one, same, other):
    assert comparable(one, None) == comparable(same, None)
    assert comparable(one, None) != comparable(other, None)
    assert {comparable(one, None): 1}[comparable(same, None)] == 1


def test_modules_are_told_apart_by_their_origin():
    module = torch.nn.Linear(2, 1)
    assert comparable(module, "a") == comparable(module, "a") != comparable(module, "b")


@pytest.mark.parametrize(
    "hidden",
    [np.random.default_rng(0), functools.partial(function, 1), torch.nn.Linear(2, 1), torch.ones(2), {3}],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_seen_through_cannot_be_batched(hidden):
    with pytest.raises(CannotBatchError, match="cannot be compared"):
        comparable(Huber(hidden), None)


def test_starts_are_compared_by_leaving_rows_out_unless_there_is_no_noise():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (60, 1))
    smooth = np.sin(3 * X[:, 0])
    noisy = smooth + 0.05 * rng.normal(size=60)
    estimator = LMRegressor(6, alpha=0.0, n_init=4, max_iter=60, random_state=0)
    fits = [estimator._ready(X, y)[1] for y in (noisy, smooth)]
    solution = run_together(fits, "auto")
    assert np.isfinite(solution.leave_one_out[:4]).all()
    assert np.isnan(solution.leave_one_out[4:]).all()
    best = [solution.leave_one_out[:4].argmin(), 4 + solution.score[4:].argmin()]
    np.testing.assert_array_equal(solution.leaders(), best)
    for fit, y, row in zip(fits, (noisy, smooth), best, strict=True):
        alone = fit.run(fit.problem, None, fit.theta)
        assert alone.best == row % 4, y
