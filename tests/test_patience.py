"""``n_iter_no_change='auto'``: how long a fit waits for progress."""

import warnings

import numpy as np
import pytest

from sklm import LMRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def noisy(n_samples=600):
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (n_samples, 2))
    return X, np.sin(3 * X[:, 0]) + X[:, 1] + 0.3 * rng.normal(size=n_samples)


@pytest.mark.parametrize(
    ("options", "number"),
    [
        ({}, 20),
        ({"early_stopping": True}, 10),
        ({"batch_size": 100}, 17),
        ({"batch_size": 20}, 5),
        ({"batch_size": 300}, 20),
        ({"optimizer": "adam"}, 20),
        ({"optimizer": "adam", "early_stopping": True}, 20),
    ],
)
def test_auto_means_a_number_of_steps_or_epochs(options, number):
    X, y = noisy()
    options = {"alpha": 1e-3, "n_init": 1, "max_iter": 60, "tol": 1e-2, "random_state": 0, **options}
    auto, given = LMRegressor(5, **options).fit(X, y), LMRegressor(5, n_iter_no_change=number, **options).fit(X, y)
    other = LMRegressor(5, n_iter_no_change=number - 2, **options).fit(X, y)
    assert auto.n_iter_ == given.n_iter_ != other.n_iter_ or auto.status_ == "max_iter"
    np.testing.assert_array_equal(auto.theta_, given.theta_)
    _, prepared = LMRegressor(5, **options)._ready(X, y)
    assert prepared.options["stopping"].n_iter_no_change == number


def test_other_values_are_refused():
    with pytest.raises(ValueError, match="n_iter_no_change"):
        LMRegressor(n_iter_no_change="many").fit(*noisy(50))


def test_infinite_patience_takes_all_iterations_and_does_not_complain():
    X, y = noisy()
    model = LMRegressor(2, alpha=1e-3, n_init=1, max_iter=60, n_iter_no_change=np.inf, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X, y)
    assert model.status_ == "max_iter"
    assert model.n_iter_ == 60
