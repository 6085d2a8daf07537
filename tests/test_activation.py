"""``activation='auto'``: softplus (of classes) or sines (of numbers) instead of tanh where the rows left out say so."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV

from sklm import CNN, MLP, LMClassifier, LMGridSearchCV, LMRegressor, _alpha_search, fit_many
from sklm.optim import _penalty_race
from sklm.optim._cross_validation import ALPHAS

from .interrupts import interrupted_from

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def ball(n_samples=150, seed=0):
    """Inside or outside; a border without corners, which few units of tanh have trouble with."""
    X = np.random.default_rng(seed).normal(size=(n_samples, 3))
    return X, (np.linalg.norm(X, axis=1) > 1.6).astype(int)


def spirals(n_samples=200):
    rng = np.random.default_rng(0)
    kind, t = rng.integers(0, 2, n_samples), rng.uniform(0.3, 3, n_samples)
    angle = 2.5 * t + np.pi * kind
    return np.c_[t * np.cos(angle), t * np.sin(angle)] + 0.05 * rng.normal(size=(n_samples, 2)), kind


def small(**options):
    return LMClassifier(**{"hidden_layer_sizes": 6, "random_state": 0, **options})


def activation(model):
    return model.architecture_.activation


def assert_same(one, other):
    for name in ("theta_", "alpha_", "alpha_scores_", "relevance_", "n_iter_", "loss_", "status_", "loo_score_"):
        np.testing.assert_equal(getattr(one, name), getattr(other, name), err_msg=name)


def asks(monkeypatch, action=None):
    """Number the searches of the first kind, by activation; ``action`` comes before the one of a rival."""
    seen, original = [], _alpha_search.searched

    def spy(fits, *given):
        seen.append([activation_of(fit) for fit in fits])
        if action is not None and len(seen) == 2:
            action()
        return original(fits, *given)

    monkeypatch.setattr(_alpha_search, "searched", spy)
    return seen


def activation_of(fit):
    return fit.core["architecture_"].activation


def hills(n_samples=120, noise=0.3):
    """Even functions of columns, which take one sine each and several units of tanh."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (n_samples, 3))
    return X, np.cos(3 * X[:, 0]) + X[:, 1] ** 2 - X[:, 2] ** 2 + noise * rng.normal(size=n_samples)


def stairs(n_samples=120):
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (n_samples, 3))
    return X, np.arctan(8 * X[:, 0]) + np.arctan(8 * X[:, 1] - 3) + 0.3 * rng.normal(size=n_samples)


def curve(**options):
    return LMRegressor(**{"hidden_layer_sizes": 6, "relevance": None, "random_state": 0, **options})


def chosen_and_tanh(make, table, rival):
    """The model that chose the rival, which is the same as if that was asked for, and the one of tanh."""
    X, y = table()
    model, tanh, other = (make(activation=name).fit(X, y) for name in ("auto", "tanh", rival))
    assert activation(model) == rival
    assert_same(model, other)
    return model, tanh


def test_a_round_border_is_found_to_want_softplus():
    model, tanh = chosen_and_tanh(small, ball, "softplus")
    new, classes = ball(2000, seed=1)
    losses = [log_loss(classes, one.predict_proba(new)) for one in (model, tanh)]
    assert losses[0] < 0.7 * losses[1]


def test_hills_are_found_to_want_sines():
    model, tanh = chosen_and_tanh(curve, hills, "sin")
    new, exact = hills(2000, noise=0)
    assert np.mean((model.predict(new) - exact) ** 2) < 0.75 * np.mean((tanh.predict(new) - exact) ** 2)


@pytest.mark.parametrize(("make", "table"), [(small, spirals), (curve, stairs)])
def test_tanh_stays_where_it_is_as_good(make, table):
    X, y = table()
    model = make().fit(X, y)
    assert activation(model) == "tanh"
    assert_same(model, make(activation="tanh").fit(X, y))


def test_without_noise_nothing_else_is_tried(monkeypatch):
    X, y = hills(noise=0)
    seen = asks(monkeypatch)
    model = curve(hidden_layer_sizes=10, max_iter=50).fit(X, y)
    assert seen == [["tanh"]]
    assert activation(model) == "tanh"


def test_with_little_noise_it_has_to_be_much_better(monkeypatch):
    """What the searches leave is made up: noise begins at 0.01 of the loss of zero outputs, too much of it at 0.7."""
    X, y = hills()
    null, original = 0.5, _alpha_search.cross_validate_alpha

    def chosen(usual, rival, number=4):
        def pretend(problem, *given, **options):
            search = original(problem, *given, **options)
            share = rival if type(problem.network.activation).__name__ == "Sine" else usual
            best = np.minimum(np.full_like(search.best, number), search.alphas.shape[1] - 1)
            return replace(search, scores=np.full_like(search.scores, share * null), best=best)

        with monkeypatch.context() as patch:
            patch.setattr(_alpha_search, "cross_validate_alpha", pretend)
            return activation(curve(max_iter=5).fit(X, y))

    assert chosen(0.011, 0.0095) == "sin"
    assert chosen(0.011, 0.0101) == "tanh"
    assert chosen(0.009, 0.0026) == "sin"
    assert chosen(0.009, 0.0028) == "tanh"
    assert chosen(0.0009, 0.0) == "tanh"
    assert chosen(0.69, 0.6) == "sin"
    assert chosen(0.71, 0.6) == "tanh"
    none = len(ALPHAS) - 1
    assert ALPHAS[none] == 0
    assert chosen(0.02, 0.0058, none) == "sin"
    assert chosen(0.02, 0.0062, none) == "tanh"


@pytest.mark.parametrize(
    ("left", "near", "chosen"),
    [
        (0.09, (2.0, 2.0, 1.5, 1.09), "sin"),
        (0.09, (2.0, 2.0, 1.5, 1.11), "tanh"),
        (0.09, (2.0, 2.0, 1.05, 1.09), "tanh"),
        (0.11, (2.0, 2.0, 1.5, 1.09), "tanh"),
        (0.11, (2.0, 2.0, 1.5, 0.94), "sin"),
    ],
)
def test_sines_that_may_do_with_far_less_penalty_are_searched(monkeypatch, left, near, chosen):
    """What the searches leave is made up: ``left`` of zero outputs, ``near`` times that, and half of it in the end."""
    X, y = hills()
    original = _alpha_search.cross_validate_alpha

    def pretend(problem, *given, **options):
        search = original(problem, *given, **options)
        ratios = np.ones(search.alphas.shape[1])
        if type(problem.network.activation).__name__ == "Sine":
            ratios = np.array(near) if len(ratios) == len(near) else ratios / 2
        best = np.full_like(search.best, 4 if len(ratios) > 4 else ratios.argmin())
        return replace(search, scores=0.5 * left * ratios[None], best=best)

    monkeypatch.setattr(_alpha_search, "cross_validate_alpha", pretend)
    assert activation(curve(max_iter=5).fit(X, y)) == chosen


@pytest.mark.parametrize("make", [ball, hills])
def test_too_little_memory_keeps_tanh_and_says_so(make, monkeypatch):
    table, rival = make(), small if make is ball else curve
    alone = rival(activation="tanh").fit(*table[:2])

    def full(fit):
        raise MemoryError("full")

    monkeypatch.setattr(_alpha_search, "_rival_of", full)
    with pytest.warns(UserWarning, match="Another activation could not be tried, the usual is kept: full"):
        model = rival().fit(*table[:2])
    assert activation(model) == "tanh"
    np.testing.assert_array_equal(model.theta_, alone.theta_)


def test_two_layers_have_the_same_units():
    X, y = hills(300)
    model = curve(hidden_layer_sizes="auto", max_iter=5)
    _, fit = model._ready(X, y)
    rival = _alpha_search._rival_of(fit)
    for one, name in ((fit, "tanh"), (rival, "sin")):
        assert one.deeper is not None
        deep = one.deeper(one).core["architecture_"]
        assert (deep.hidden_layer_sizes, deep.activation) == (fit.deeper_sizes, name)


def test_many_regressions_are_what_single_ones_are():
    X, up = hills()
    _, steps = stairs()
    targets = [steps, up, up]
    alone = [curve().fit(X, y) for y in targets]
    assert [activation(model) for model in alone] == ["tanh", "sin", "sin"]
    for one, other in zip(fit_many(curve(), X, targets), alone, strict=True):
        assert activation(one) == activation(other)
        assert one.alpha_ == pytest.approx(other.alpha_)
        np.testing.assert_allclose(one.predict(X), other.predict(X), rtol=1e-5, atol=1e-5)


def test_a_fit_of_sines_goes_on_and_can_be_read_off():
    X, y = hills()
    model = curve(warm_start=True).fit(X, y)
    (first, last), (bias, outside) = model.coefs_, model.intercepts_
    np.testing.assert_allclose(model.predict(X), (np.sin(X @ first + bias) @ last + outside)[:, 0], rtol=1e-9)
    before = model.loss_
    assert activation(model.fit(X, y)) == "sin"
    assert model.loss_ <= before * (1 + 1e-6)
    assert activation(model.partial_fit(X, y)) == "sin"
    assert activation(curve().partial_fit(X, y)) == "tanh"


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "tanh"},
        {"alpha": 1e-2},
        {"hidden_layer_sizes": ()},
        {"architecture": MLP((6,)), "hidden_layer_sizes": "auto"},
        {"architecture": CNN(2, kernel_size=2, stride=1, input_shape=(1, 3)), "hidden_layer_sizes": "auto"},
        {"early_stopping": True},
        {"target_loss": 0.1},
        {"optimizer": "lbfgs"},
        {"batch_size": 30},
        {"loss": "squared_error"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_only_where_it_is_open_and_all_rows_are_searched(options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, fit = small(**options)._ready(*ball())
    assert fit.rival is None
    assert getattr(fit.core["architecture_"], "activation", "tanh") in ("tanh", "elu")


@pytest.mark.parametrize(
    "options", [{"alpha": "cv"}, {"class_weight": "balanced"}, {"relevance": None}, {"max_iter": 5}]
)
def test_with_other_options(options):
    X, y = ball()
    model = small(**options).fit(X, y)
    assert activation(model) == "softplus"
    assert_same(model, small(activation="softplus", **options).fit(X, y))


def test_several_labels():
    X, y = ball()
    model = small().fit(X, np.c_[y, X[:, 0] > 0].astype(int))
    assert activation(model) == "softplus"
    assert model.score(X, np.c_[y, X[:, 0] > 0]) > 0.8


@pytest.mark.parametrize("order", [1, -1])
def test_many_fits_are_what_single_ones_are(order):
    """Of two tables on the same rows one wants each; in the same batch, the one or the other first."""
    X, inside = ball()
    wavy = (X[:, 1] > np.sin(3 * X[:, 0])).astype(int)
    targets = [wavy, inside][::order]
    alone = [small(max_iter=10).fit(X, y) for y in targets]
    assert [activation(model) for model in alone] == ["tanh", "softplus"][::order]
    for one, other in zip(fit_many(small(max_iter=10), X, targets), alone, strict=True):
        assert activation(one) == activation(other)
        assert one.alpha_scores_ == pytest.approx(other.alpha_scores_)
        np.testing.assert_allclose(one.predict_proba(X), other.predict_proba(X), atol=1e-5)


def test_a_search_gives_the_same_scores_as_scikit_learn():
    X, y = ball()
    grid = [{"activation": ["auto", "tanh"]}, {"activation": ["auto"], "damping": [1.0]}]
    together = LMGridSearchCV(small(max_iter=12), grid, cv=2, scoring="neg_log_loss").fit(X, y)
    apart = GridSearchCV(small(max_iter=12), grid, cv=2, scoring="neg_log_loss", refit=False).fit(X, y)
    np.testing.assert_allclose(together.cv_results_["mean_test_score"], apart.cv_results_["mean_test_score"], rtol=1e-8)
    assert together.cv_results_["batched"].all()
    assert len(set(together.cv_results_["mean_test_score"])) == 3
    assert activation(together.best_estimator_) == "softplus"
    assert together.best_index_ == apart.best_index_


def test_what_goes_on_from_a_fit_keeps_it():
    X, y = ball()
    model = small(warm_start=True).fit(X, y)
    before = model.loss_
    assert activation(model.fit(X, y)) == "softplus"
    assert model.loss_ <= before * (1 + 1e-6)
    assert activation(model.partial_fit(X, y)) == "softplus"
    assert model.score(X, y) > 0.9
    assert activation(small().partial_fit(X, y, classes=[0, 1])) == "tanh"


def test_it_can_be_cloned_and_read_off():
    X, y = ball()
    model = small().fit(X, y)
    assert clone(model).activation == "auto"
    (first, last), (bias, outside) = model.coefs_, model.intercepts_
    logits = np.logaddexp(0, X @ first + bias) @ last + outside
    np.testing.assert_allclose(model.predict_proba(X)[:, 1], 1 / (1 + np.exp(-logits[:, 0])), rtol=1e-9)


def test_verbose_says_so(capsys):
    X, y = ball()
    small(verbose=2, max_iter=5).fit(X, y)
    assert "softplus" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["before the rival's search", "after both"])
def test_an_interrupt_leaves_a_model_of_tanh(monkeypatch, place):
    X, y = ball()

    def interrupt(*_given, **_options):
        raise KeyboardInterrupt

    if place == "after both":
        monkeypatch.setattr(_alpha_search, "_completed", interrupt)
    else:
        asks(monkeypatch, interrupt)
    with pytest.warns(UserWarning, match="interrupted by the user; the best model so far is kept"):
        model = small().fit(X, y)
    assert (model.status_, activation(model)) == ("interrupted", "tanh")
    assert model.alpha_ > 0
    assert model.score(X, y) > 0.8


def test_an_interrupt_within_the_search_of_a_rival_leaves_a_model_of_tanh(monkeypatch):
    X, y = ball()
    seen = asks(monkeypatch, lambda: interrupted_from(monkeypatch, _penalty_race, 1))
    with pytest.warns(UserWarning, match="interrupted by the user"):
        model = small().fit(X, y)
    assert seen == [["tanh"], ["softplus"]]  # and was not asked for more penalties
    assert (model.status_, activation(model)) == ("interrupted", "tanh")


def test_a_warm_start_cannot_change_the_units():
    X, y = hills()
    model = curve(warm_start=True, max_iter=5).fit(X, y)
    assert activation(model) == "sin"
    theta = model.theta_
    with pytest.raises(ValueError, match="activation was 'sin' in the last fit, and is 'tanh'"):
        model.set_params(activation="tanh").fit(X, y)
    assert model.theta_ is theta


def test_with_little_time_it_is_left_to_the_usual_fit(monkeypatch):
    X, y = hills()
    usual, jumps = curve(activation="tanh", relevance="auto").fit(X, y), []
    original = _alpha_search.time.monotonic
    monkeypatch.setattr(_alpha_search.time, "monotonic", lambda: original() + sum(jumps))
    seen, searched = [], _alpha_search.searched

    def slow(fits, *given):
        seen.append([activation_of(fit) for fit in fits])
        jumps.append(60.0)
        return searched(fits, *given)

    monkeypatch.setattr(_alpha_search, "searched", slow)
    model = curve(relevance="auto", max_time=600).fit(X, y)  # of the 300 for searches 240 are left
    assert seen == [["tanh"]]
    assert (model.alpha_, activation(model)) == (usual.alpha_, "tanh")
    np.testing.assert_array_equal(model.relevance_, usual.relevance_)
    jumps.clear()
    assert activation(curve(relevance="auto", max_time=2000).fit(X, y)) == "sin"


def test_without_time_for_both_searches_tanh_stays(monkeypatch):
    X, y = ball()
    original = _alpha_search.time.monotonic
    late = []
    monkeypatch.setattr(_alpha_search.time, "monotonic", lambda: original() + 100 * len(late))
    asks(monkeypatch, lambda: late.append(True))
    with pytest.warns(ConvergenceWarning, match="max_time=60"):
        model = small(max_time=60).fit(X, y)
    assert activation(model) == "tanh"
