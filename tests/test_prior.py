"""``alpha='auto'`` of LMClassifier where leaving rows out takes too long: evidence and single rows judge penalties."""

import copy

import numpy as np
import pytest
import torch
from sklearn.datasets import make_circles, make_classification, make_moons
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV

from sklm import CNN, LMClassifier, LMGridSearchCV, _prior
from sklm._prior import HANDICAPS, MOST, NARROWER, WIDER
from sklm.losses import SoftmaxCrossEntropy
from sklm.optim import leave_one_out, levenberg_marquardt, log_evidence, make_problem

from .problems import tensor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(autouse=True)
def long(monkeypatch):
    """Rows are left out in turn where there is time for that; these fits are too long."""
    monkeypatch.setattr("sklm._penalty.MOST_CLASSES_WORK", 0)


def noisy(n_samples=100, n_classes=3, seed=0, n_features=20):
    return make_classification(
        n_samples,
        n_features,
        n_informative=5,
        n_redundant=0,
        n_classes=n_classes,
        n_clusters_per_class=2,
        flip_y=0.1,
        random_state=seed,
    )


def small(**options):
    return LMClassifier(**{"hidden_layer_sizes": 5, "relevance": None, "random_state": 0, **options})


def factors(model, total):
    return np.array(list(model.alpha_scores_)) * total


@pytest.mark.parametrize("n_classes", [2, 3])
def test_overlapping_classes_get_a_narrow_prior_and_better_probabilities(n_classes):
    losses = []
    for seed in range(3):
        X, y = noisy(2100, n_classes, seed)
        judged = LMClassifier(relevance=None, random_state=0).fit(X[:100], y[:100])
        fixed = LMClassifier(alpha=0.01, random_state=0).fit(X[:100], y[:100])
        assert judged.alpha_ > 1 / 100
        losses.append([log_loss(y[100:], m.predict_proba(X[100:])) for m in (judged, fixed)])
    judged, fixed = np.mean(losses, axis=0)
    assert judged < 0.85 * fixed


def test_curved_classes_in_the_plane_get_a_wide_prior():
    X, y = make_moons(2300, noise=0.2, random_state=0)
    judged = LMClassifier(relevance=None, random_state=0).fit(X[:300], y[:300])
    fixed = LMClassifier(alpha=1 / 300, random_state=0).fit(X[:300], y[:300])
    assert judged.alpha_ == pytest.approx(0.3 / 300)
    losses = [log_loss(y[300:], m.predict_proba(X[300:])) for m in (judged, fixed)]
    assert losses[0] < losses[1]


def test_scores_are_those_of_the_engine():
    X, y = noisy()
    model = small(curvature="exact").fit(X, y)
    assert list(model.alpha_scores_) == sorted(model.alpha_scores_, reverse=True)
    Z = (X - model.x_mean_) * model.x_inverse_scale_
    network = model.architecture_.build(20, 3)
    problem = make_problem(network, SoftmaxCrossEntropy(), tensor(Z), tensor(np.eye(3)[y]), alpha=model.alpha_)
    theta = tensor(model.theta_)[None]
    loo = leave_one_out(problem, theta, most=MOST).item()
    expected = (loo - log_evidence(problem, theta, 100).item() / 100) / 2
    assert model.alpha_scores_[model.alpha_] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("seed", "n_features"), [(0, 20), (1, 20), (2, 5), (3, 5), (4, 2)])
def test_the_best_of_all_wins(seed, n_features):
    X, y = noisy(80, 2, seed, n_features) if n_features > 2 else make_moons(80, noise=0.2, random_state=seed)
    model = small().fit(X, y)
    scores = dict(zip(factors(model, 80).round(6), model.alpha_scores_.values(), strict=True))
    narrow = {factor: score for factor, score in scores.items() if factor >= 1}

    def handicapped(scores):
        return {factor: score + HANDICAPS[factor] * min(scores.values()) for factor, score in scores.items()}

    assert list(narrow) == [10, 3, 1]
    assert (WIDER in scores) == (min(narrow, key=handicapped(narrow).get) == 1)
    assert model.alpha_ * 80 == pytest.approx(min(scores, key=handicapped(scores).get))


def test_going_on_is_a_fit_from_there():
    """The first penalty is that of a fit with it; what follows ends in a minimum of the objective that it says."""
    X, y = noisy()
    model, first = small(tol=1e-8).fit(X, y), small(tol=1e-8, alpha=0.01).fit(X, y)
    assert model.alpha_ > 0.01
    assert model.n_iter_ == len(model.loss_curve_) == len(model.damping_curve_) > first.n_iter_
    np.testing.assert_array_equal(model.loss_curve_[: first.n_iter_], first.loss_curve_)
    again = copy.deepcopy(model).set_params(alpha=model.alpha_, warm_start=True).fit(X, y)
    assert again.loss_ == pytest.approx(model.loss_, rel=1e-4)


def test_a_weight_counts_as_so_many_rows():
    X, y = noisy(60)
    weight = np.where(np.arange(60) < 10, 2, 1)
    weighted, repeated = small().fit(X, y, weight), small().fit(np.repeat(X, weight, 0), np.repeat(y, weight))
    assert weighted.alpha_scores_ is not None
    np.testing.assert_allclose(weighted.alpha_, repeated.alpha_)
    np.testing.assert_allclose(list(weighted.alpha_scores_.values()), list(repeated.alpha_scores_.values()), rtol=1e-5)
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), atol=1e-6)


def test_labels_are_judged_too():
    X, y = noisy(80, 2)
    both = np.c_[y, 1 - y]
    model = small().fit(X, both)
    # two equal labels: the mean of their losses, so that the prior counts every label as an observation
    np.testing.assert_allclose(factors(model, 160).max(), NARROWER[-1])
    assert model.alpha_ > 1 / 160


@pytest.mark.parametrize("curvature", ["sampled", "fisher"])
def test_with_other_curvatures_the_exact_one_judges(curvature):
    X, y = noisy()
    model, exact = small(curvature=curvature).fit(X, y), small(curvature="exact").fit(X, y)
    assert model.alpha_ == exact.alpha_
    assert model.alpha_scores_[model.alpha_] == pytest.approx(exact.alpha_scores_[model.alpha_], rel=0.1)


def test_several_starts_go_on_from_the_best():
    X, y = noisy()
    model = small(n_init=3).fit(X, y)
    best = min((small(alpha=0.01, n_init=3).fit(X, y) for _ in range(1)), key=lambda m: m.loss_)
    np.testing.assert_array_equal(model.loss_curve_[: best.n_iter_], best.loss_curve_)
    assert model.alpha_ > 0.01


@pytest.mark.parametrize(
    "options",
    [
        {"hidden_layer_sizes": ()},
        {"alpha": 0.02},
        {"early_stopping": True},
        {"target_loss": 0.4},
        {"param_selection": "random"},
        {"loss": "squared_error"},
        {"optimizer": "lbfgs"},
        {"max_iter": 3},
        {
            "architecture": CNN(conv_channels=2, kernel_size=2, stride=1, input_shape=(1, 4, 5)),
            "hidden_layer_sizes": "auto",
        },
        {
            "architecture": torch.nn.Sequential(torch.nn.Linear(20, 3), torch.nn.Tanh(), torch.nn.Linear(3, 3)),
            "hidden_layer_sizes": "auto",
        },
    ],
    ids=lambda options: next(iter(options)),
)
def test_where_nothing_is_judged_the_penalty_is_one_over_the_rows(options):
    X, y = noisy()
    model = small(**options).fit(X, y)
    assert model.alpha_scores_ is None
    rows = 90 if "early_stopping" in options else 100  # the others are held out
    assert model.alpha_ == options.get("alpha", 1 / rows)


def test_not_where_judging_takes_too_long(monkeypatch):
    X, y = noisy()
    monkeypatch.setattr("sklm._classifier.JUDGING_WORK", 1e5)
    model = small().fit(X, y)
    assert (model.alpha_, model.alpha_scores_) == (0.01, None)


def test_iterations_of_all_penalties_count_towards_max_iter():
    X, y = noisy()
    free = small().fit(X, y)
    first = small(alpha=0.01).fit(X, y)
    limited = small(max_iter=first.n_iter_ + 2).fit(X, y)
    assert first.n_iter_ <= limited.n_iter_ <= first.n_iter_ + 2 < free.n_iter_
    assert limited.alpha_ == 0.01  # two iterations are no fit with another penalty
    assert limited.status_ == first.status_


@pytest.mark.parametrize("when", [1, 2])
def test_an_interrupt_keeps_the_best_so_far(monkeypatch, when):
    X, y = noisy()
    calls = []

    def interrupted(*given, callback=None, **options):
        calls.append(1)

        def stop(progress):
            if len(calls) == when and progress.iteration > 2:
                raise KeyboardInterrupt

        return levenberg_marquardt(*given, callback=stop, **options)

    monkeypatch.setattr(_prior, "levenberg_marquardt", interrupted)
    with pytest.warns(UserWarning, match="interrupted by the user; the best model so far is kept"):
        model = small().fit(X, y)
    assert (model.status_, model.converged_) == ("interrupted", False)
    whole = [1.0, *NARROWER][:when]  # no other fit has come to its end
    assert list(factors(model, 100)) == pytest.approx(whole[::-1])
    assert model.alpha_ == pytest.approx(whole[-1] / 100)
    assert model.loss_ == pytest.approx(log_loss(y, model.predict_proba(X)), rel=1e-9)


@pytest.mark.parametrize("when", [1, 2])
def test_an_interrupt_while_judging_keeps_the_best_so_far(monkeypatch, when):
    X, y = noisy()
    calls = []

    def interrupted(*given, **options):
        calls.append(1)
        if len(calls) == when:
            raise KeyboardInterrupt
        return log_evidence(*given, **options)

    monkeypatch.setattr(_prior, "log_evidence", interrupted)
    with pytest.warns(UserWarning, match="interrupted by the user; the best model so far is kept"):
        model = small().fit(X, y)
    assert (model.status_, model.alpha_) == ("interrupted", 0.01)


def test_a_callback_ends_it():
    X, y = noisy()
    first = small(alpha=0.01).fit(X, y)

    class Stop:
        calls = 0

        def setup(self, estimator, context): ...

        def on_fit_task_begin(self, estimator, context): ...

        def on_fit_task_end(self, estimator, context):
            Stop.calls += 1
            return Stop.calls == first.n_iter_ + 3

        def teardown(self, estimator, context): ...

    model = small().set_callbacks(Stop()).fit(X, y)
    assert (model.status_, model.alpha_, model.n_iter_) == ("callback", 0.01, first.n_iter_)
    np.testing.assert_array_equal(model.theta_, first.theta_)


def test_time_ends_it():
    X, y = noisy(300)
    model = LMClassifier(10, max_time=0.2, tol=0, n_iter_no_change=10**6, max_iter=10**6, random_state=0).fit(X, y)
    assert (model.status_, model.alpha_) == ("time", 1 / 300)


def test_searches_find_the_same():
    X, y = noisy(90)
    grid = {"damping": [1e-2, 1.0], "hidden_layer_sizes": [3, 5]}
    with np.errstate(all="ignore"):
        together = LMGridSearchCV(small(), grid, cv=3, scoring="neg_log_loss").fit(X, y)
        apart = GridSearchCV(small(), grid, cv=3, scoring="neg_log_loss").fit(X, y)
    np.testing.assert_allclose(together.cv_results_["mean_test_score"], apart.cv_results_["mean_test_score"], rtol=1e-8)
    assert together.best_params_ == apart.best_params_
    assert together.best_estimator_.alpha_scores_ is not None


def test_warnings_are_those_of_the_last_fit():
    X, y = noisy()
    with pytest.warns(ConvergenceWarning, match="reached max_iter=5"):
        small(max_iter=5).fit(X, y)


def test_copies_of_rows_are_no_new_rows():
    """Left out alone, a row is told by its twin, and the widest prior would be the best."""
    X, y = noisy()
    for given in (
        (np.repeat(X, 2, axis=0), np.repeat(y, 2), None),
        (X, y, np.full(100, 2)),
        (np.r_[X, X + 1e-9], np.r_[y, y], None),
    ):
        model = small().fit(*given)
        assert (model.alpha_, model.alpha_scores_) == (1 / 200, None)
    few = small().fit(np.r_[X, X[:10]], np.r_[y, y[:10]])
    assert few.alpha_scores_ is not None


def test_single_precision_is_judged_in_double():
    X, y = noisy()
    single, double = (small(dtype=dtype).fit(X, y) for dtype in ("float32", "float64"))
    assert single.alpha_ == double.alpha_
    np.testing.assert_allclose(list(single.alpha_scores_.values()), list(double.alpha_scores_.values()), rtol=0.02)


def test_a_model_that_says_the_same_of_all_rows_must_be_clearly_better():
    """The larger penalties end in the saddle where all units are zero; its score is but a little lower."""
    X, y = make_circles(2040, noise=0.05, factor=0.5, random_state=1)
    order = np.random.default_rng(1).permutation(2040)
    X, y = X[order], y[order]
    model = LMClassifier(relevance=None, random_state=0).fit(X[:40], y[:40])
    assert model.score(X[40:], y[40:]) > 0.9
    noise = np.random.default_rng(0).integers(0, 2, 200)
    assert LMClassifier(random_state=0).fit(np.random.default_rng(1).normal(size=(200, 8)), noise).alpha_ == 10 / 200


@pytest.mark.parametrize("n_rows", [40, 100])
def test_few_rows_are_judged_in_their_own_space(n_rows):
    """To the same scores as by the matrix of the parameters, and without it."""
    X, y = noisy(n_rows, 3, n_features=30)
    model = LMClassifier(10, relevance=None, curvature="exact", random_state=0).fit(X, y)
    problem = make_problem(
        model.architecture_.build(30, 3),
        SoftmaxCrossEntropy(),
        tensor((X - model.x_mean_) * model.x_inverse_scale_),
        tensor(np.eye(3)[y]),
        alpha=model.alpha_,
    )
    theta = tensor(model.theta_)[None]
    assert 3 * n_rows < len(model.theta_)
    values = log_evidence(problem, theta, n_rows).item(), leave_one_out(problem, theta, most=MOST).item()
    with pytest.MonkeyPatch.context() as patch:
        # parameters free of penalty have a little of it there, which matters where units are saturated
        patch.setattr("sklm.optim._leave_one_out.FREE", 1e-9)
        free = leave_one_out(problem, theta, most=MOST).item()
        for module in ("_evidence", "_leave_one_out"):
            patch.setattr(f"sklm.optim.{module}.has_few_rows", lambda problem: False)
        wide = log_evidence(problem, theta, n_rows).item(), leave_one_out(problem, theta, most=MOST).item()
    assert values[0] == pytest.approx(wide[0], rel=1e-8)
    assert free == pytest.approx(wide[1], rel=0.05)
    assert values[1] == pytest.approx(wide[1], rel=0.2)


def test_verbose_says_what_was_chosen(capsys):
    X, y = noisy()
    small(verbose=1).fit(X, y)
    said = capsys.readouterr().err.splitlines()
    assert said[-2] == "alpha = 0.1 is the best of 0.1, 0.03, 0.01"
