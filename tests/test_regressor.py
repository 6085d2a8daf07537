"""LMRegressor: what it computes, in which units, and when it stops."""

import itertools
import re
import time
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state

from sklm import MLP, LMClassifier, LMRegressor
from sklm.optim import GainRatio

ignore_max_iter = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

NUMPY_ACTIVATIONS = {
    "tanh": np.tanh,
    "logistic": lambda z: 1 / (1 + np.exp(-z)),
    "relu": lambda z: np.maximum(z, 0),
    "softplus": lambda z: np.logaddexp(0, z),
    "elu": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
    "silu": lambda z: z / (1 + np.exp(-z)),
    "sin": np.sin,
    "identity": lambda z: z,
}


def surface(n=80, noise=0.0, seed=0):
    """Two inputs, one smooth output."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, size=(n, 2))
    return X, np.sin(2 * X[:, 0]) + X[:, 1] ** 2 + noise * rng.normal(size=n)


def two_outputs(n=80):
    """Targets of very different size."""
    X, y = surface(n)
    return X, np.c_[y, 1e5 + 1e3 * np.cos(X[:, 0])]


def small(**options):
    """A regressor that is done in a moment, and whose path rounding does not bend."""
    fixed = {"hidden_layer_sizes": 5, "random_state": 0, "max_iter": 30, "n_init": 1, "relevance": None}
    return LMRegressor(**{**fixed, **options})


class Rows(torch.nn.Module):
    """A module from a function of (module, X), with named scalar parameters."""

    def __init__(self, function, **values):
        super().__init__()
        self.function = function
        for name, value in values.items():
            self.register_parameter(name, torch.nn.Parameter(torch.tensor(float(value))))

    def forward(self, X):
        return self.function(self, X)


# -- quality -----------------------------------------------------------------------------------------------------


def test_default_options_fit_a_curve_to_high_accuracy():
    X = np.linspace(-1, 1, 200).reshape(-1, 1)
    y = np.sinc(3 * X[:, 0])
    model = LMRegressor(10, random_state=0).fit(X, y)  # at max_iter it is too good to warn
    assert model.score(X, y) > 1 - 1e-12


def test_no_hidden_layer_is_least_squares():
    X, y = surface()
    weights = np.random.default_rng(1).uniform(0.5, 2, size=len(y))
    model = LMRegressor((), random_state=0).fit(X, y, weights)
    root = np.sqrt(weights)[:, None]
    design = np.c_[X, np.ones(len(X))]
    solution = np.linalg.lstsq(design * root, y * root[:, 0], rcond=None)[0]
    np.testing.assert_allclose(np.append(model.coefs_[0][:, 0], model.intercepts_[0]), solution, rtol=1e-9)
    assert model.n_iter_ < 15


def test_alpha_is_ridge_on_the_standardised_problem():
    X, y = surface()
    alpha = 0.3
    model = LMRegressor((), alpha=alpha, random_state=0).fit(X, y)
    Z, t = (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()
    coefficients = np.linalg.solve(Z.T @ Z / len(Z) + alpha * np.eye(2), Z.T @ t / len(Z))
    np.testing.assert_allclose(model.coefs_[0][:, 0], coefficients * y.std() / X.std(0), rtol=1e-8)


@pytest.mark.parametrize("hidden", [4, (6, 3), [3, 3, 3], np.array([5])])
@ignore_max_iter
def test_any_number_of_hidden_layers(hidden):
    X, y = surface()
    model = small(hidden_layer_sizes=hidden).fit(X, y)
    assert [c.shape[1] for c in model.coefs_[:-1]] == np.atleast_1d(hidden).tolist()
    assert model.score(X, y) > 0.8


# -- formula and units -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", sorted(NUMPY_ACTIVATIONS))
@pytest.mark.parametrize("standardize", [True, False])
@ignore_max_iter
def test_coefs_and_intercepts_give_the_formula_for_raw_data(activation, standardize):
    X, y = two_outputs()
    X = X * [1.0, 1e4] + [0.0, 3e4]
    if not standardize:
        X, y = (X - X.mean(0)) / X.std(0), (y - y.mean(0)) / y.std(0)
    model = small(hidden_layer_sizes=(5, 4), activation=activation, standardize=standardize, max_iter=8).fit(X, y)
    a = X
    for coefficients, intercepts in zip(model.coefs_[:-1], model.intercepts_[:-1], strict=True):
        a = NUMPY_ACTIVATIONS[activation](a @ coefficients + intercepts)
    by_hand = a @ model.coefs_[-1] + model.intercepts_[-1]
    assert [c.shape for c in model.coefs_] == [(2, 5), (5, 4), (4, 2)]
    np.testing.assert_allclose(by_hand, model.predict(X), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("activation", sorted(NUMPY_ACTIVATIONS))
@ignore_max_iter
def test_to_module_is_the_same_function_of_raw_data(activation):
    X, y = surface()
    model = small(hidden_layer_sizes=(4, 3), activation=activation, max_iter=5).fit(X * 100 + 7, y * 50)
    module = model.to_module()
    assert isinstance(module, torch.nn.Sequential)
    outputs = module(torch.tensor(X * 100 + 7))
    assert outputs.requires_grad  # an ordinary module, ready for further training
    np.testing.assert_allclose(outputs.detach().numpy()[:, 0], model.predict(X * 100 + 7), rtol=1e-9, atol=1e-9)


@ignore_max_iter
def test_loss_is_half_the_mean_squared_error_in_units_of_y():
    X, y = surface(noise=0.1)
    model = small().fit(X, 1000 * y + 5)
    half_mse = 0.5 * np.mean((model.predict(X) - 1000 * y - 5) ** 2)
    np.testing.assert_allclose(model.loss_, half_mse, rtol=1e-9)
    np.testing.assert_allclose(model.loss_curve_.min(), half_mse, rtol=1e-9)


@ignore_max_iter
def test_loss_of_several_outputs_is_half_the_mean_over_rows_and_outputs():
    X, Y = two_outputs()
    model = small().fit(X, Y)
    np.testing.assert_allclose(model.loss_, 0.5 * np.mean((model.predict(X) - Y) ** 2), rtol=1e-9)


@ignore_max_iter
def test_loss_is_weighted_and_without_penalty():
    X, y = surface(noise=0.1)
    weights = np.random.default_rng(3).uniform(0, 2, size=len(y))
    model = small(alpha=0.1).fit(X, y, weights)
    expected = 0.5 * np.average((model.predict(X) - y) ** 2, weights=weights)
    np.testing.assert_allclose(model.loss_, expected, rtol=1e-9)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_target_loss_is_on_the_scale_of_the_loss(unit):
    X, y = surface()
    target = 0.01 * unit**2
    model = small(target_loss=target, max_iter=500).fit(X, y * unit)
    assert model.status_ == "target"
    assert model.loss_ <= target < model.loss_curve_[-2]


def test_target_loss_of_several_outputs():
    X, Y = two_outputs()
    model = small(target_loss=50.0, max_iter=500).fit(X, Y)
    assert model.status_ == "target"
    assert 0.5 * np.mean((model.predict(X) - Y) ** 2) <= 50.0 < model.loss_curve_[-2]


# -- outputs -----------------------------------------------------------------------------------------------------


@ignore_max_iter
def test_output_shape_follows_y():
    X, y = surface()
    assert small(max_iter=2).fit(X, y).predict(X).shape == (80,)
    column = small(max_iter=2).fit(X, y[:, None])
    assert column.predict(X).shape == (80, 1)
    assert column.n_outputs_ == 1
    assert small(max_iter=2).fit(X, np.c_[y, y, y]).predict(X).shape == (80, 3)
    np.testing.assert_array_equal(column.predict(X)[:, 0], small(max_iter=2).fit(X, y).predict(X))


def test_every_output_is_fitted_at_its_own_scale():
    X, y = surface()
    Y = np.c_[1e9 + 1e3 * y, 1e-9 * np.cos(X[:, 0]), X[:, 1]]
    model = small(max_iter=300, tol=1e-2, hidden_layer_sizes=8).fit(X, Y)
    for k in range(3):
        error = model.predict(X)[:, k] - Y[:, k]
        assert np.mean(error**2) < 0.01 * Y[:, k].var()


# -- scale does not matter ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1e-12, 1e-6, 1e6, 1e12])
@pytest.mark.parametrize("what", ["X", "y", "both"])
@ignore_max_iter
def test_factors_change_nothing(factor, what):
    X, y = surface(noise=0.05)
    reference = small().fit(X, y).score(X, y)
    a, b = X * (factor if what != "y" else 1.0), y * (factor if what != "X" else 1.0)
    scaled = small().fit(a, b)
    assert 0.9 < reference < 1
    np.testing.assert_allclose(scaled.score(a, b), reference, atol=1e-7)


@pytest.mark.parametrize("what", ["X", "y"])
@ignore_max_iter
def test_offsets_change_nothing(what):
    X, y = surface(noise=0.05)
    reference = small().fit(X, y).score(X, y)
    a, b = X + 1e8 * (what == "X"), y + 1e8 * (what == "y")
    np.testing.assert_allclose(small().fit(a, b).score(a, b), reference, atol=1e-5)


@ignore_max_iter
def test_every_output_at_its_own_scale_changes_nothing():
    X, y = surface(noise=0.05)
    Y = np.c_[y, np.cos(X[:, 0]), X[:, 1]]
    reference = small().fit(X, Y).score(X, Y)
    factors = np.array([1e-12, 1.0, 1e12])
    np.testing.assert_allclose(small().fit(X, Y * factors).score(X, Y * factors), reference, atol=1e-7)


@ignore_max_iter
def test_every_input_at_its_own_scale_changes_nothing():
    X, y = surface(noise=0.05)
    factors = np.array([1e-12, 1e12])
    np.testing.assert_allclose(
        small().fit(X * factors, y).score(X * factors, y), small().fit(X, y).score(X, y), atol=1e-7
    )


# -- sample weights ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": "auto"},
        {"alpha": 0.01},
        {"damping": 10.0},
        {"standardize": False},
        {"solver": "qr"},
        {"solver": "eigh"},
        {"solver": "dual"},
        {"hidden_layer_sizes": 60},  # fewer rows than parameters
        {"damping_scaling": "marquardt"},
        {"acceleration": None},
        {"init": "data"},
        {"n_init": 3},
        {"n_init": "auto", "alpha": "auto"},
        {"jacobian_max_rows": 7},
        {"early_stopping": False, "target_loss": 1e-3},
    ],
    ids=str,
)
@pytest.mark.parametrize("n_outputs", [1, 2])
@ignore_max_iter
def test_weight_k_is_the_row_k_times_and_weight_0_no_row(options, n_outputs):
    X, y = surface(noise=0.3)
    Y = y if n_outputs == 1 else np.c_[y, np.cos(y)]
    counts = np.random.default_rng(5).integers(0, 4, size=len(X))
    X[counts == 0] += 100  # would move mean and range if weight 0 were not the row removed
    options = {"max_iter": 12, "alpha": 1e-3, **options}
    weighted = small(**options).fit(X, Y, sample_weight=counts)
    repeated = small(**options).fit(X.repeat(counts, axis=0), Y.repeat(counts, axis=0))
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(weighted.loss_, repeated.loss_, rtol=1e-7)


@ignore_max_iter
def test_weights_have_no_unit():
    X, y = surface(noise=0.3)
    weights = np.random.default_rng(5).uniform(0.5, 1.5, size=len(X))
    one = small(alpha=0.01).fit(X, y, weights)
    for unit in (1e-200, 1e-9, 1e9, 1e200):
        other = small(alpha=0.01).fit(X, y, weights * unit)
        np.testing.assert_allclose(other.predict(X), one.predict(X), rtol=1e-7, atol=1e-7)


def test_weights_with_growing_reach_the_repeated_rows_minimum():
    # enough rows for the fit to start on a part of them, which differs between the two
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(900, 1))
    y = np.tanh(2 * X[:, 0]) + 0.1 * rng.normal(size=900)
    counts = rng.integers(0, 3, size=900)
    options = {"hidden_layer_sizes": 1, "tol": 1e-12, "random_state": 0}
    weighted = LMRegressor(**options).fit(X, y, counts)
    repeated = LMRegressor(**options).fit(X.repeat(counts, axis=0), y.repeat(counts))
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-6, atol=1e-6)


# -- options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["auto", "cholesky", "qr", "eigh", "dual"])
@pytest.mark.parametrize("hidden", [3, 40])  # more, and fewer, rows than parameters
@ignore_max_iter
def test_solvers_take_the_same_path(solver, hidden):
    X, y = surface(noise=0.1)
    options = {"hidden_layer_sizes": hidden, "alpha": 1e-3, "max_iter": 8}
    reference, model = small(solver="qr", **options).fit(X, y), small(solver=solver, **options).fit(X, y)
    np.testing.assert_allclose(model.loss_curve_, reference.loss_curve_, rtol=1e-6)


@pytest.mark.parametrize("solver", ["cholesky", "qr", "eigh", "dual"])
@pytest.mark.parametrize("scaling", ["identity", "marquardt", "more"])
@ignore_max_iter
def test_scalings_mean_the_same_in_all_solvers(solver, scaling):
    X, y = surface(noise=0.1)
    reference = small(damping_scaling=scaling, solver="qr", max_iter=8).fit(X, y)
    model = small(damping_scaling=scaling, solver=solver, max_iter=8).fit(X, y)
    np.testing.assert_allclose(model.loss_curve_, reference.loss_curve_, rtol=1e-6)
    assert model.loss_curve_[-1] < 0.5 * model.loss_curve_[0]


def one_more(diagonal, largest):
    return diagonal + 1


@pytest.fixture(scope="module")
def plain():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return small(max_iter=60).fit(*surface())


@pytest.mark.parametrize(
    "options",
    [
        {"acceleration": None},
        {"damping_strategy": "multiplicative"},
        {"damping_strategy": "delayed_gratification"},
        {"damping_strategy": GainRatio(decrease=5.0)},
        {"damping_scaling": one_more},
        {"init": "glorot"},
        {"init": "uniform"},
        {"init": "normal"},
        {"init": "data"},
        {"init": "nguyen_widrow"},
        {"n_init": 4},
        {"batch_size": 40},
        {"dtype": "float32"},
        {"architecture": MLP((5,), "sin"), "hidden_layer_sizes": "auto"},
        {"alpha": 1e-5},
    ],
    ids=lambda options: " ".join(f"{name}={getattr(value, '__name__', value)}" for name, value in options.items()),
)
@ignore_max_iter
def test_every_option_fits(plain, options):
    X, y = surface()
    model = small(max_iter=60, **options).fit(X, y)
    assert model.score(X, y) > 0.95
    assert not np.array_equal(model.theta_, plain.theta_) or options in ({"init": "nguyen_widrow"}, {"n_init": 4})
    assert np.all(np.isfinite(model.theta_))
    assert model.theta_.dtype == np.float64


@pytest.mark.parametrize("hidden", [4, 40])
@ignore_max_iter
def test_jacobian_max_rows_does_not_change_the_result(hidden):
    X, y = surface(n=120, noise=0.1)
    fits = [
        small(hidden_layer_sizes=hidden, max_iter=6, jacobian_max_rows=rows, growing=False).fit(X, y)
        for rows in (7, 100, None, "auto")
    ]
    for model in fits[:-1]:
        np.testing.assert_allclose(model.predict(X), fits[-1].predict(X), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(model.loss_, fits[-1].loss_, rtol=1e-9)


@ignore_max_iter
def test_more_starts_never_make_it_worse():
    X, y = surface(noise=0.1)
    scores = [small(n_init=n, alpha=0.0, max_iter=20).fit(X, y).loo_score_ for n in (1, 2, 4, 8)]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(scores))
    assert scores[-1] > scores[0]


@ignore_max_iter
def test_start_k_is_the_same_for_every_n_init():
    X, y = surface(noise=0.1)
    many = small(n_init=6, max_iter=10).fit(X, y)
    # the best of six is one of the singles: with n_init from 1 to 6 it appears at some k and stays
    losses = [small(n_init=n, max_iter=10).fit(X, y).loss_ for n in range(1, 7)]
    assert np.isclose(losses, many.loss_, rtol=1e-9).any()
    assert np.all(np.diff(losses) <= 1e-12)


def test_mini_batches_keep_the_best_full_data_iterate():
    X, y = surface(n=200, noise=0.3)
    model = small(batch_size=30, batch_memory=None, max_iter=15, tol=0, n_iter_no_change=np.inf).fit(X, y)
    assert model.n_iter_ == len(model.loss_curve_) == 15
    np.testing.assert_allclose(model.loss_, 0.5 * np.mean((model.predict(X) - y) ** 2), rtol=1e-9)
    np.testing.assert_allclose(model.loss_, model.loss_curve_.min(), rtol=1e-9)
    assert (np.diff(model.loss_curve_) > 0).any()  # single epochs may be worse, or the batches were not batches


@ignore_max_iter
@pytest.mark.parametrize("batch_size", [8, 64])
def test_batches_of_few_rows_a_parameter_are_averaged(batch_size):
    """With a memory that 'auto' gives them, the fit of noisy data is near that of all rows; without, it is not."""
    X, y = surface(n=1000, noise=0.3)
    options = {"hidden_layer_sizes": 8, "max_iter": 30, "n_init": 1, "growing": False}
    alone, averaged, full = (
        small(**options, **more).fit(X, y).loss_
        for more in ({"batch_size": batch_size, "batch_memory": None}, {"batch_size": batch_size}, {})
    )
    assert averaged < 1.1 * full
    assert averaged < alone


@ignore_max_iter
def test_a_batch_size_of_all_rows_is_the_full_fit():
    X, y = surface()
    np.testing.assert_array_equal(small(batch_size=80).fit(X, y).theta_, small().fit(X, y).theta_)


@ignore_max_iter
def test_growing_curve_and_result_are_those_of_all_rows_at_the_end():
    X, y = surface(n=3000, noise=0.1)
    model = small(hidden_layer_sizes=2, growing=True, max_iter=200, tol=1e-3).fit(X, y)
    np.testing.assert_allclose(model.loss_, 0.5 * np.mean((model.predict(X) - y) ** 2), rtol=1e-9)
    np.testing.assert_allclose(model.loss_curve_[-1], model.loss_, rtol=1e-3)
    assert model.n_iter_ == len(model.loss_curve_) == len(model.damping_curve_)
    other = small(hidden_layer_sizes=2, growing=False, max_iter=200, tol=1e-3).fit(X, y)
    assert not np.array_equal(model.loss_curve_[:3], other.loss_curve_[:3])


@pytest.mark.parametrize("n_init", [1, 3])
@ignore_max_iter
def test_max_iter_counts_all_growing_stages(n_init):
    X, y = surface(n=3000, noise=0.1)
    for max_iter in (1, 5, 12, 25):
        model = small(hidden_layer_sizes=2, growing=True, max_iter=max_iter, n_init=n_init, tol=0).fit(X, y)
        assert model.n_iter_ <= max_iter


# -- stopping ----------------------------------------------------------------------------------------------------


def test_warning_at_max_iter_says_what_to_change():
    X, y = surface()
    with pytest.warns(ConvergenceWarning, match="max_iter=3 before it converged.*raise max_iter.*raise alpha"):
        model = small(max_iter=3).fit(X, y)
    assert (model.status_, model.converged_, model.n_iter_) == ("max_iter", False, 3)
    assert "max_iter" in model.message_


def test_warning_points_at_the_callers_line():
    X, y = surface()
    with pytest.warns(ConvergenceWarning) as record:
        small(max_iter=3).fit(X, y)
    assert len(record) == 1
    assert record[0].filename == __file__


def test_curves_have_one_entry_an_iteration_and_never_rise():
    X, y = surface(noise=0.2)
    model = small(max_iter=300, tol=1e-3, alpha=0.0).fit(X, y)
    assert model.status_ == "decrease"
    assert model.converged_
    assert len(model.loss_curve_) == len(model.damping_curve_) == model.n_iter_ < 300
    assert np.all(np.diff(model.loss_curve_) <= 0)
    assert np.all(model.damping_curve_ > 0)
    assert model.validation_scores_ is None
    assert model.best_validation_score_ is None
    np.testing.assert_allclose(model.loss_curve_[-1], model.loss_, rtol=1e-12)


def test_stops_by_decrease_only_after_n_iter_no_change_iterations_without_progress():
    X, y = surface(noise=0.2)
    model = small(max_iter=500, tol=1e-2, n_iter_no_change=6).fit(X, y)
    curve = model.loss_curve_
    assert model.status_ == "decrease"
    assert curve[-1] > curve[-7] * (1 - 1e-2)  # the last six were not worth it
    endless = small(max_iter=150, tol=1e-2, n_iter_no_change=np.inf).fit(X, y)
    assert endless.n_iter_ == 150


def test_max_time_ends_the_fit_and_says_so():
    X, y = surface(n=2000, noise=0.1)
    model = small(hidden_layer_sizes=40, max_time=0.3, max_iter=10**6, tol=0, n_iter_no_change=10**6)
    began = time.monotonic()
    with pytest.warns(ConvergenceWarning, match="max_time=0.3 ended the search for alpha"):
        model.fit(X, y)
    assert time.monotonic() - began < 10
    assert (model.status_, model.converged_) == ("time", False)
    assert "max_time" in model.message_
    assert model.score(X, y) > 0.3


def test_perfect_fit_ends_quickly():
    X = np.linspace(-1, 1, 20).reshape(-1, 1)
    model = LMRegressor((), random_state=0, tol=0).fit(X, 3 * X[:, 0] - 1)
    assert model.n_iter_ < 15
    assert model.status_ in ("exact", "gradient", "step")
    assert model.loss_ < 1e-28


def test_zero_jacobian_ends_quickly():
    X, y = surface()
    module = Rows(lambda m, X: X[:, 0] + 0 * m.a, a=1.0)
    with pytest.warns(UserWarning, match=r"parameters \['a'\] have no influence"):
        model = LMRegressor(architecture=module).fit(X, y)
    assert model.n_iter_ <= 2
    assert model.status_ == "gradient"
    assert "gradient is zero" in model.message_


@ignore_max_iter
def test_n_iter_is_that_of_the_winner():
    X, y = surface(noise=0.2)
    model = small(n_init=5, max_iter=200, tol=1e-2).fit(X, y)
    assert model.n_iter_ == len(model.loss_curve_) == len(model.damping_curve_)
    assert np.isfinite(model.loss_curve_).all()
    np.testing.assert_allclose(model.loss_curve_[-1], model.loss_, rtol=1e-9)


def test_the_first_of_several_exact_fits_is_kept():
    # which of them is nearest to zero is a matter of rounding, and no reason to choose
    X, y = surface(8)
    one = small(hidden_layer_sizes=20, max_iter=200, n_init=1, alpha=0.0).fit(X, y)
    many = small(hidden_layer_sizes=20, max_iter=200, n_init=5, alpha=0.0).fit(X, y)
    assert one.status_ == many.status_ == "exact"
    np.testing.assert_allclose(many.predict(X + 0.3), one.predict(X + 0.3), rtol=1e-7, atol=1e-7)


# -- early stopping ----------------------------------------------------------------------------------------------


def held_out(n, fraction, random_state):
    seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
    return train_test_split(np.arange(n), test_size=int(np.ceil(fraction * n)), random_state=seed)


@pytest.mark.parametrize("weighted", [False, True])
@ignore_max_iter
def test_early_stopping_restores_the_best_weights(weighted):
    X, y = surface(n=60, noise=0.8)
    weights = np.random.default_rng(2).uniform(0.5, 2, size=60) if weighted else None
    model = small(
        hidden_layer_sizes=25, early_stopping=True, validation_fraction=0.3, random_state=4, max_iter=300
    ).fit(X, y, weights)
    train, held = held_out(60, 0.3, 4)
    part = (lambda index: weights[index]) if weighted else (lambda index: None)
    np.testing.assert_allclose(model.best_validation_score_, model.validation_scores_.max(), rtol=1e-12)
    np.testing.assert_allclose(model.score(X[held], y[held], part(held)), model.best_validation_score_, rtol=1e-9)
    assert model.validation_scores_[-1] < model.best_validation_score_  # it went on, and came back
    assert len(model.validation_scores_) == model.n_iter_
    assert model.status_ == "validation"
    np.testing.assert_allclose(
        model.loss_, 0.5 * np.average((model.predict(X[train]) - y[train]) ** 2, weights=part(train)), rtol=1e-9
    )


@ignore_max_iter
def test_early_stopping_uses_no_held_out_row():
    X, y = surface(n=60, noise=0.2)
    _, held = held_out(60, 0.3, 4)
    options = {"early_stopping": True, "validation_fraction": 0.3, "random_state": 4, "max_iter": 3}
    one = small(**options).fit(X, y)
    changed = y.copy()
    changed[held] += 1e-6 * np.arange(len(held))
    other = small(**options).fit(X, changed)
    np.testing.assert_array_equal(one.y_mean_, other.y_mean_)
    assert one.loss_ == other.loss_


@ignore_max_iter
def test_early_stopping_with_several_outputs():
    X, Y = two_outputs(60)
    model = small(early_stopping=True, validation_fraction=0.3, random_state=4, max_iter=40).fit(X, Y)
    _, held = held_out(60, 0.3, 4)
    Z, P = ((a - model.y_mean_) / model.y_scale_ for a in (Y[held], model.predict(X[held])))
    expected = 1 - ((Z - P) ** 2).sum() / ((Z - Z.mean(0)) ** 2).sum()
    np.testing.assert_allclose(model.best_validation_score_, expected, rtol=1e-9)


@ignore_max_iter
def test_early_stopping_with_growing_and_batches():
    X, y = surface(n=2500, noise=0.3)
    for options in ({"growing": True}, {"batch_size": 300}):
        model = small(hidden_layer_sizes=2, early_stopping=True, random_state=4, **options).fit(X, y)
        _, held = held_out(2500, 0.1, 4)
        np.testing.assert_allclose(model.score(X[held], y[held]), model.best_validation_score_, rtol=1e-6)


# -- warm start and partial fit ----------------------------------------------------------------------------------


@ignore_max_iter
def test_warm_start_goes_on_where_the_last_fit_ended():
    X, y = surface(noise=0.05)
    model = small(warm_start=True, max_iter=10).fit(X, y)
    first = model.loss_
    model.fit(X, y)
    assert model.loss_curve_[0] <= first * (1 + 1e-12)
    cold = small(max_iter=10).fit(X, y)
    assert cold.loss_ == first
    assert model.loss_ < first


@pytest.mark.parametrize("n_outputs", [1, 2])
@ignore_max_iter
def test_warm_start_on_data_at_another_scale_starts_from_the_same_function(n_outputs):
    X, y = surface()
    Y = y if n_outputs == 1 else np.c_[y, np.cos(y)]
    model = small(warm_start=True, max_iter=20).fit(X, Y)
    before = model.predict(3 * X + 1)
    model.set_params(damping=1e15, max_iter=1)  # a step of no length
    model.fit(3 * X + 1, 100 * Y - 40)
    assert model.y_scale_ == pytest.approx(100 * Y.std(axis=0))  # and yet standardised for the new data
    np.testing.assert_allclose(model.predict(3 * X + 1), before, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("standardize", ["auto", True])
@ignore_max_iter
def test_warm_start_of_a_module_starts_from_the_same_function(standardize):
    X, y = surface()
    model = LMRegressor(
        architecture=torch.nn.Linear(2, 1), warm_start=True, max_iter=20, standardize=standardize, tol=0.1
    ).fit(X, y)
    before = model.predict(3 * X + 1)
    model.set_params(damping=1e15, max_iter=1).fit(3 * X + 1, 100 * y - 40)
    np.testing.assert_allclose(model.predict(3 * X + 1), before, rtol=1e-7, atol=1e-7)


@ignore_max_iter
def test_warm_start_from_constant_columns_starts_from_the_same_function():
    X, y = surface()
    flat = X.copy()
    flat[:, 1] = 0.5
    model = small(warm_start=True, max_iter=20).fit(flat, y)
    before = model.predict(X)
    model.set_params(damping=1e15, max_iter=1).fit(X, y)
    np.testing.assert_allclose(model.predict(X), before, rtol=1e-7, atol=1e-7)


@ignore_max_iter
def test_warm_start_needs_the_same_architecture():
    X, y = surface()
    model = small(warm_start=True, max_iter=3).fit(X, y)
    model.set_params(hidden_layer_sizes=7)
    with pytest.raises(ValueError, match=r"warm_start needs the same architecture .*21 parameters then, 29 now"):
        model.fit(X, y)


@ignore_max_iter
def test_warm_start_with_several_starts_is_never_worse_than_the_fitted_model():
    X, y = surface(noise=0.05)
    model = small(warm_start=True, n_init=4, max_iter=15).fit(X, y)
    first = model.loss_
    assert model.fit(X, y).loss_ <= first * (1 + 1e-12)


@ignore_max_iter
def test_partial_fit_takes_one_step_a_call():
    X, y = surface(noise=0.05)
    model = small()
    losses = []
    for count in range(1, 25):
        model.partial_fit(X, y)
        assert model.n_iter_ == count == len(model.loss_curve_) == len(model.damping_curve_)
        losses.append(0.5 * np.mean((model.predict(X) - y) ** 2))
    assert np.all(np.diff(losses) <= 1e-15)
    np.testing.assert_allclose(model.loss_curve_, losses, rtol=1e-9)
    assert model.score(X, y) > 0.9
    assert len(set(model.damping_curve_)) > 3  # carried over, adapting


def test_partial_fit_learns_from_a_stream_of_batches():
    X, y = surface(n=600)
    model = small(hidden_layer_sizes=10)
    for _ in range(4):
        for rows in np.split(np.arange(600), 6):
            model.partial_fit(X[rows], y[rows])
    assert model.score(X, y) > 0.95
    assert model.n_iter_ == 24


def test_partial_fit_keeps_the_first_standardisation():
    X, y = surface()
    model = small().partial_fit(X, y)
    mean, scale = model.x_mean_.copy(), model.y_scale_.copy()
    model.partial_fit(X + 1, y * 2)
    np.testing.assert_array_equal(model.x_mean_, mean)
    np.testing.assert_array_equal(model.y_scale_, scale)


def test_partial_fit_can_start_on_one_row_and_constant_columns():
    X, y = surface()
    X = np.c_[X, np.zeros(len(X))]
    model = small().partial_fit(X[:1], y[:1])
    later = X.copy()
    later[:, 2] = X[:, 0]  # the column that was constant now says something
    for _ in range(30):
        model.partial_fit(later, y)
    assert model.score(later, y) > 0.9


def test_partial_fit_after_fit_goes_on():
    X, y = surface(noise=0.05)
    with pytest.warns(ConvergenceWarning):
        model = small(max_iter=6).fit(X, y)
    loss = model.loss_
    model.partial_fit(X, y)
    assert model.loss_ <= loss
    assert model.n_iter_ == 7


def test_partial_fit_weights_count():
    X, y = surface(noise=0.3)
    counts = np.random.default_rng(5).integers(0, 3, size=len(X))
    weighted = small().partial_fit(X, y, counts)
    repeated = small().partial_fit(X.repeat(counts, axis=0), y.repeat(counts))
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-7, atol=1e-7)


def test_partial_fit_refuses_other_shapes():
    X, y = surface()
    model = small().partial_fit(X, y)
    with pytest.raises(ValueError, match="y has 2 columns; the model was started with 1"):
        model.partial_fit(X, np.c_[y, y])
    with pytest.raises(ValueError, match="X has 1 features, but LMRegressor is expecting 2"):
        model.partial_fit(X[:, :1], y)


# -- modules -----------------------------------------------------------------------------------------------------


def test_module_recovers_physical_parameters():
    t = np.linspace(0, 8, 120)
    true = {"amplitude": 3.2e-4, "decay": 0.4, "frequency": 2.5, "phase": 0.3, "offset": 1.7e-3}

    def oscillation(m, X):
        t = X[:, 0]
        return m.amplitude * torch.exp(-m.decay * t) * torch.cos(m.frequency * t + m.phase) + m.offset

    y = oscillation(
        type("", (), {k: torch.tensor(v, dtype=torch.float64) for k, v in true.items()}), torch.tensor(t[:, None])
    ).numpy()
    start = {"amplitude": 2e-4, "decay": 0.6, "frequency": 2.4, "phase": 0.2, "offset": 1e-3}
    model = LMRegressor(architecture=Rows(oscillation, **start), tol=0).fit(t[:, None], y)
    fitted = {name: float(p.detach()) for name, p in model.to_module().named_parameters()}
    assert fitted == pytest.approx(true, rel=1e-7)
    assert list(fitted) == list(true)


def test_module_is_copied_and_starts_from_its_values():
    X, y = surface()
    module = Rows(lambda m, X: m.a * X[:, 0] + m.b, a=2.0, b=-1.0)
    model = LMRegressor(architecture=module, damping=1e15, max_iter=1, tol=0.5)
    with pytest.warns(ConvergenceWarning):
        model.fit(X, y)
    np.testing.assert_allclose(model.predict(X), 2 * X[:, 0] - 1, rtol=1e-6, atol=1e-6)
    fitted = LMRegressor(architecture=module).fit(X, y)
    assert (module.a.item(), module.b.item()) == (2.0, -1.0)
    assert module.a.requires_grad
    assert module.a.dtype == torch.float32
    assert fitted.to_module().a.item() != 2.0


def test_module_matches_least_squares_and_keeps_frozen_parameters():
    X, y = surface()
    module = Rows(lambda m, X: m.a * X[:, 0] + m.b, a=2.0, b=-1.0)
    module.b.requires_grad_(False)
    model = LMRegressor(architecture=module).fit(X, y)
    result = model.to_module()
    assert len(model.theta_) == 1
    assert result.b.item() == -1.0
    np.testing.assert_allclose(result.a.item(), X[:, 0] @ (y + 1) / (X[:, 0] @ X[:, 0]), rtol=1e-6)


def test_module_with_several_outputs():
    X, _ = surface()
    Y = np.c_[X @ [1.0, 2.0], X @ [3.0, -1.0] + 4]
    model = LMRegressor(architecture=torch.nn.Linear(2, 2)).fit(X, Y)
    np.testing.assert_allclose(model.to_module().weight.detach().numpy(), [[1, 2], [3, -1]], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(model.predict(X), Y, atol=1e-8)


@ignore_max_iter
def test_module_of_the_same_layers_follows_the_mlp():
    X, y = surface(noise=0.1)
    mlp = small(max_iter=1, alpha=0.0).fit(X, y)
    options = {"damping": 0.01, "max_iter": 6, "standardize": False, "solver": "cholesky"}
    module = LMRegressor(architecture=mlp.to_module(), damping_scaling="identity", **options).fit(X, y)
    start = mlp.set_params(warm_start=True, **options)
    start.fit(X, y)
    np.testing.assert_allclose(module.loss_curve_, start.loss_curve_, rtol=1e-6)


@ignore_max_iter
def test_module_restarts_scatter_around_the_carried_values():
    x = np.linspace(0, 6, 60)[:, None]
    y = np.sin(3.0 * x[:, 0])
    module = Rows(lambda m, X: torch.sin(m.w * X[:, 0]), w=1.0)
    one = LMRegressor(architecture=module, random_state=0).fit(x, y)
    many = LMRegressor(architecture=module, random_state=0, n_init=30).fit(x, y)
    assert one.loss_ > 0.05
    assert many.loss_ < 1e-12


@ignore_max_iter
def test_module_standardised_on_request():
    X, y = surface()
    model = LMRegressor(architecture=torch.nn.Linear(2, 1), standardize=True).fit(1e6 * X, y)
    assert model.x_mean_.any()
    plain = LMRegressor(()).fit(1e6 * X, y)
    np.testing.assert_allclose(model.predict(1e6 * X), plain.predict(1e6 * X), atol=1e-7)


def test_to_module_of_a_standardised_module_is_the_same_function():
    # promised by the docstring of to_module: scaling layers around it
    X, y = surface()
    model = LMRegressor(architecture=torch.nn.Linear(2, 1), standardize=True).fit(1e6 * X, y)
    outputs = model.to_module()(torch.tensor(1e6 * X)).detach().numpy().ravel()
    np.testing.assert_allclose(outputs, model.predict(1e6 * X), rtol=1e-9, atol=1e-9)


# -- output on the screen ----------------------------------------------------------------------------------------


def test_silent_by_default(capfd):
    X, y = surface()
    small(max_iter=300, tol=0.1).fit(X, y).predict(X)
    assert capfd.readouterr() == ("", "")


@ignore_max_iter
def test_verbose_1_shows_a_line_of_progress(capsys):
    X, y = surface()
    small(verbose=1, max_iter=12).fit(X, y)
    out, err = capsys.readouterr()
    assert out == ""
    first, last = err.split("\r")[0], err.split("\r")[-1]
    assert first.startswith("Fitting 21 parameters on 80 rows ...\n")
    line, why = last.splitlines()
    assert re.fullmatch(r"\[#{20}\] iteration 12, loss \S+, damping \S+, \d+\.\d s +", line)
    assert why == "max_iter iterations were done."


def sine(n=600, seed=0):
    X = np.random.default_rng(seed).uniform(-2, 2, (n, 1))
    return X, np.sin(4 * X[:, 0])


def test_another_start_is_tried_where_all_rows_do_not_confirm_a_target():
    """The first start reaches 1e-3 on a few rows, and ends at 1.06e-3 on all."""
    X, y = sine()
    options = {"hidden_layer_sizes": 4, "target_loss": 1e-3, "random_state": 40}
    with pytest.warns(ConvergenceWarning, match=r"did not reach target_loss=0\.001: .* The loss is 0\.0010\d\."):
        assert LMRegressor(n_init=1, **options).fit(X, y).status_ == "decrease"
    model = LMRegressor(**options).fit(X, y)
    assert (model.status_, model.loo_score_) == ("target", None)
    assert model.loss_ <= 1e-3


def test_a_target_that_is_not_reached_is_said_to_be():
    X, y = surface()
    with pytest.warns(ConvergenceWarning, match="did not reach target_loss=1e-30"):
        small(target_loss=1e-30, hidden_layer_sizes=1, max_iter=500).fit(X, y)


class At:
    """Asks for an end, or raises, at a task's end."""

    def __init__(self, number, interrupts=False):
        self.number, self.interrupts, self.n_calls = number, interrupts, 0

    def setup(self, estimator, context): ...

    def on_fit_task_begin(self, estimator, context): ...

    def on_fit_task_end(self, estimator, context):
        self.n_calls += 1
        if self.n_calls == self.number and self.interrupts:
            raise KeyboardInterrupt
        return self.n_calls == self.number

    def teardown(self, estimator, context): ...


@pytest.mark.parametrize("options", [{"target_loss": 0.0255}, {"n_init": 1}, {}], ids=str)
def test_an_end_is_one_at_the_last_iteration_of_a_stage_too(options):
    """Nothing follows, and the best model so far is kept."""
    X = np.random.default_rng(1).uniform(-2, 2, (3000, 1))
    y = np.sin(3 * X[:, 0]) + 0.3 * X[:, 0] ** 2
    model = LMRegressor(2, alpha=0.0, random_state=0, **options)
    printed = []
    model._printers = lambda: [lambda progress: printed.append(progress.n_active)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y)
        ends = [number for number, n_active in enumerate(printed, 1) if n_active == 0]
        assert len(ends) > 1
        for number in ends[:-1]:
            hook = At(number)
            stopped = clone(model).set_callbacks(hook).fit(X, y)
            assert (stopped.status_, hook.n_calls) == ("callback", number + 1)
            assert np.isfinite(stopped.loss_)


def test_an_interrupt_at_the_very_end_keeps_the_model():
    X, y = surface()
    free = At(0)
    whole = small(alpha=0.0, max_iter=500).set_callbacks(free).fit(X, y)
    with pytest.warns(UserWarning, match="interrupted by the user"):
        model = small(alpha=0.0, max_iter=500).set_callbacks(At(free.n_calls, interrupts=True)).fit(X, y)
    assert model.status_ == "interrupted"
    np.testing.assert_array_equal(model.theta_, whole.theta_)


@pytest.mark.parametrize("growing", [False, True])
def test_a_target_is_reached_by_the_model_that_is_kept(growing):
    """Held-out rows may prefer an earlier one."""
    reached = 0
    for seed in range(12):
        X = np.random.default_rng(seed).uniform(-2, 2, (600, 1))
        y = np.sin(3 * X[:, 0]) + 0.3 * X[:, 0] ** 2 + 0.1 * np.random.default_rng(seed + 99).normal(size=600)
        for target in (0.05, 0.1):
            options = {"target_loss": target, "early_stopping": True, "growing": growing, "max_iter": 50}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model = LMRegressor(3, n_init=1, random_state=seed, **options).fit(X, y)
            assert (model.loss_ <= target) == (model.status_ == "target")
            reached += model.status_ == "target"
    assert reached > 6


@ignore_max_iter
def test_hooks_see_all_starts_that_a_target_tries():
    X, y = sine()
    printed = []
    model = LMRegressor(3, target_loss=1e-9, random_state=0, max_iter=10)
    model._printers = lambda: [lambda progress: printed.append(progress.iteration)]
    hook = At(0)
    model.set_callbacks(hook).fit(X, y)
    assert len(printed) > 10
    assert printed == list(range(1, len(printed) + 1))
    assert hook.n_calls == len(printed) + 1  # and the fit itself


@ignore_max_iter
def test_verbose_says_which_rows_are_used_and_how(capsys):
    X, y = surface(n=100)
    small(verbose=1, max_iter=2, early_stopping=True, batch_size=30, n_init=3).fit(X, y)
    assert "on 90 rows in batches of 30, 10 more held out to stop by, 3 starts ..." in capsys.readouterr().err


@ignore_max_iter
def test_verbose_1_shows_the_time_left(capsys):
    X, y = surface(n=3000)
    options = {"max_iter": 10**5, "max_time": 0.8, "hidden_layer_sizes": 30, "tol": 0, "n_iter_no_change": 10**6}
    small(verbose=1, alpha=0.0, **options).fit(X, y)
    assert re.search(r"loss \S+, damping \S+, at most [01] s left", capsys.readouterr().err)  # of max_time


@pytest.mark.parametrize("growing", [False, True])
@ignore_max_iter
def test_verbose_2_prints_a_line_an_iteration(capsys, growing):
    X, y = surface(n=2500, noise=0.1)
    model = small(hidden_layer_sizes=2, verbose=2, max_iter=40, growing=growing).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    numbers = [int(re.match(r"Iteration (\d+), loss = \S+, damping = \S+, running = \d+$", line)[1]) for line in lines]
    assert numbers == list(range(1, model.n_iter_ + 1))
    np.testing.assert_allclose(float(re.search(r"loss = (\S+),", lines[-1])[1]), model.loss_, rtol=1e-6)


@ignore_max_iter
def test_verbose_does_not_change_the_result(capsys):
    X, y = surface()
    quiet = small(max_iter=10).fit(X, y)
    for verbose in (1, 2, True):
        np.testing.assert_array_equal(small(max_iter=10, verbose=verbose).fit(X, y).theta_, quiet.theta_)
    assert capsys.readouterr().err


# -- seeds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"n_init": 3}, {"n_init": "auto"}, {"batch_size": 20}, {"early_stopping": True}, {"growing": True}],
    ids=str,
)
@ignore_max_iter
def test_same_seed_same_result(options):
    X, y = surface(n=1500, noise=0.1)
    one, two = (small(hidden_layer_sizes=2, max_iter=15, **options).fit(X, y) for _ in range(2))
    np.testing.assert_array_equal(one.theta_, two.theta_)
    np.testing.assert_array_equal(one.loss_curve_, two.loss_curve_)
    other = small(hidden_layer_sizes=2, max_iter=15, **{**options, "random_state": 1}).fit(X, y)
    assert not np.array_equal(one.theta_, other.theta_)


@ignore_max_iter
def test_random_state_instance_moves_on():
    X, y = surface()
    state = np.random.RandomState(3)
    one, two = small(random_state=state, max_iter=2).fit(X, y), small(random_state=state, max_iter=2).fit(X, y)
    assert not np.array_equal(one.theta_, two.theta_)
    again = small(random_state=np.random.RandomState(3), max_iter=2).fit(X, y)
    np.testing.assert_array_equal(one.theta_, again.theta_)


# -- unfitted ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", [lambda m: m.predict([[1.0]]), lambda m: m.coefs_, lambda m: m.to_module()])
def test_unfitted(use):
    with pytest.raises(NotFittedError, match="LMRegressor instance is not fitted yet"):
        use(LMRegressor())


def test_coefs_of_a_module_say_where_to_look():
    X, y = surface()
    model = LMRegressor(architecture=torch.nn.Linear(2, 1)).fit(X, y)
    with pytest.raises(AttributeError, match=r"use to_module\(\)"):
        _ = model.coefs_


@ignore_max_iter
def test_a_mask_and_warm_start_keep_the_frozen_layer():
    """'auto' makes no random starts there, whose first layers would be frozen as well."""
    X, y = surface()
    model = small(warm_start=True, n_init="auto").fit(X, y)
    first = model.coefs_[0].copy()
    mask = np.arange(len(model.theta_)) >= first.size + first.shape[1]
    model.set_params(param_selection=mask).fit(X, y**2)
    np.testing.assert_allclose(model.coefs_[0], first, rtol=1e-12)


def test_a_misspelt_option_is_said_of_the_class_that_was_called():
    with pytest.raises(TypeError, match=r"^LMRegressor.__init__\(\) got an unexpected keyword argument 'alfa'"):
        LMRegressor(alfa=1)
    with pytest.raises(TypeError, match=r"^LMClassifier.__init__\(\) got an unexpected keyword argument 'alfa'"):
        LMClassifier(alfa=1)
