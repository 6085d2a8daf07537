"""The penalty by cross-validation against ridge regression in closed form, and the rules of the race."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from sklm.architectures import CNN, MLP
from sklm.losses import SquaredError
from sklm.optim import (
    SearchInterrupted,
    Stopping,
    StreamedRows,
    _cross_validation,
    _penalty_race,
    cross_validate_alpha,
    make_problem,
    stack_problems,
)

from ..problems import tensor

ALPHAS = (10.0, 1.0, 0.3, 1e-1, 1e-2, 0.0)


def table(seed=0, n_samples=40, n_features=8, noise=2.0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_samples, n_features))
    return X, (X @ rng.normal(size=n_features) + noise * rng.normal(size=n_samples))[:, None], rng


def search(X, y, folds, n_held_out, hidden=(), weights=None, network=None, **options):
    network = network or MLP(hidden).build(X.shape[1], y.shape[1])
    problem = make_problem(network, SquaredError(), tensor(X), tensor(y), weights=weights)
    theta = tensor(np.random.default_rng(3).normal(size=(1, network.n_parameters)))
    return cross_validate_alpha(problem, theta, torch.from_numpy(folds)[None], n_held_out, **options)


def ridge(X, y, folds, n_held_out, alpha, weights):
    """Mean loss of the rows left out, by weight."""
    total = 0.0
    for k in range(n_held_out):
        train = folds != k
        model = Ridge(alpha * weights[train].sum()).fit(X[train], y[train], weights[train])
        total += (weights * (y - model.predict(X).reshape(y.shape))[:, 0] ** 2)[~train].sum() / 2
    return total / weights[folds < n_held_out].sum()


@pytest.fixture
def runs(monkeypatch):
    """What every run of the engine in a search is given: its problem, and the limits of the run."""
    given, original = [], _penalty_race.levenberg_marquardt

    def noting(problem, theta, **options):
        given.append((problem, options["stopping"]))
        return original(problem, theta, **options)

    monkeypatch.setattr(_penalty_race, "levenberg_marquardt", noting)
    return given


@pytest.mark.parametrize("n_held_out", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_scores_of_a_linear_network_are_those_of_ridge_regression(n_held_out, weighted):
    X, y, rng = table()
    folds, weights = rng.permutation(40) % 3, rng.uniform(0.5, 2, 40) if weighted else np.ones(40)
    got = search(X, y, folds, n_held_out, weights=tensor(weights) if weighted else None, alphas=ALPHAS)
    want = [ridge(X, y, folds, n_held_out, alpha, weights) for alpha in ALPHAS]
    np.testing.assert_allclose(got.scores[0], want, rtol=1e-6)
    assert got.best[0] == np.argmin(want)
    assert got.best[0] < len(ALPHAS) - 1
    assert got.chosen[0] == ALPHAS[np.argmin(want)]


def test_many_fits_are_searched_as_each_on_its_own():
    cases = [table(seed, n_samples=30, n_features=2, noise=0.1) for seed in range(3)]
    folds = np.stack([rng.permutation(30) % 5 for _, _, rng in cases])
    network = MLP((4,)).build(2, 1)
    alone = [search(X, y, fold, 2, network=network) for (X, y, _), fold in zip(cases, folds, strict=True)]
    problem = stack_problems([make_problem(network, SquaredError(), tensor(X), tensor(y)) for X, y, _ in cases])
    theta = tensor(np.random.default_rng(3).normal(size=(1, network.n_parameters))).expand(3, -1)
    together = cross_validate_alpha(problem, theta, torch.from_numpy(folds), 2)
    np.testing.assert_allclose(together.scores, np.concatenate([one.scores for one in alone]), rtol=1e-6)
    np.testing.assert_array_equal(together.best, [one.best[0] for one in alone])


@pytest.mark.parametrize("last", [0.1, 0.0])
def test_every_fit_may_have_alphas_of_its_own(last):
    X, y, rng = table()
    folds, own = rng.permutation(40) % 3, np.array([[10.0, 1.0, last], [3.0, 0.3, last]])
    problem = make_problem(MLP(()).build(8, 1), SquaredError(), tensor(X), tensor(y), n_models=2)
    theta = tensor(np.random.default_rng(3).normal(size=(2, problem.network.n_parameters)))
    got = cross_validate_alpha(problem, theta, torch.from_numpy(folds)[None], 3, alphas=own)
    want = [[ridge(X, y, folds, 3, alpha, np.ones(40)) for alpha in alphas] for alphas in own]
    np.testing.assert_allclose(got.scores, want, rtol=1e-6)
    np.testing.assert_array_equal(got.alphas, own)
    np.testing.assert_array_equal(got.chosen, own[[0, 1], np.argmin(want, axis=1)])


@pytest.mark.parametrize(("last", "longest"), [(0.0, 900), (1e-12, 20)])
def test_only_a_last_candidate_of_none_is_doubted(runs, last, longest):
    """Where there seems to be no noise, no penalty is trained to its end to see; a small one is one of many."""
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (60, 1))
    y = np.sin(3 * x) + 0.01 * rng.normal(size=x.shape)
    got = search(x, y, rng.permutation(60) % 5, 3, hidden=(8,), alphas=(1e-2, 1e-4, 1e-6, last))
    assert got.scores.min() < 1e-4
    assert max(limits.max_iter for _, limits in runs) == longest
    assert last == 0 or got.best[0] == got.scores[0].argmin()


def test_few_models_at_once_change_nothing():
    X, y, rng = table(1, n_features=1, noise=0.3)
    folds = rng.permutation(40) % 5
    whole, cut = (search(X, y, folds, 3, hidden=(5,), models_at_once=n) for n in (None, 4))
    np.testing.assert_allclose(cut.scores, whole.scores, rtol=1e-6)
    assert cut.best == whole.best


def test_what_does_not_fit_in_the_caches_is_cut_and_changes_nothing(monkeypatch, runs):
    X, y, rng = table(1, n_features=1, noise=0.3)
    folds = rng.permutation(40) % 5
    whole = search(X, y, folds, 3, hidden=(5,))
    runs.clear()
    monkeypatch.setattr(_penalty_race, "CACHED_BYTES", 7 * (3 * 17**2 + 32 * 16) * 8)  # of 30 models
    cut = search(X, y, folds, 3, hidden=(5,))
    assert [len(problem.alpha) for problem, _ in runs[:5]] == [6] * 5
    np.testing.assert_allclose(cut.scores, whole.scores, rtol=1e-6)
    assert cut.best == whole.best


def test_who_stops_the_first_of_many_models_has_a_penalty_from_the_middle(monkeypatch):
    X, y, rng = table(1, n_features=1, noise=0.3)
    tried, original = [], _penalty_race.levenberg_marquardt

    def stopped(problem, *given, **options):
        if len(tried) == 3:
            raise KeyboardInterrupt
        tried.append(float(problem.alpha[0]))
        return original(problem, *given, **options)

    monkeypatch.setattr(_penalty_race, "levenberg_marquardt", stopped)
    with pytest.raises(SearchInterrupted) as stop:
        search(X, y, rng.permutation(40) % 5, 1, hidden=(5,), models_at_once=1)
    assert sorted(tried) == sorted(_cross_validation.ALPHAS[4:7])
    assert stop.value.alpha[0] in tried


def test_only_rows_that_models_learn_from_are_worked_on(runs):
    X, y, _ = table()
    search(X, y, np.repeat([0, 1, 2], [5, 15, 20]), 2, hidden=(5,))
    rows = [problem.n_samples for problem, _ in runs]
    assert set(rows) <= {25, 35}  # what the smallest fold of a batch leaves
    assert max(rows) == 35


def test_rows_that_are_not_copied_have_no_weight_and_change_nothing(monkeypatch):
    X, y, rng = table()
    folds, weights = rng.permutation(40) % 3, tensor(rng.uniform(0.5, 2, 40))
    own = search(X, y, folds, 3, weights=weights, alphas=ALPHAS)
    monkeypatch.setattr(_penalty_race.PenaltyRace, "_gives_rows", lambda race, n_models: False)
    shared = search(X, y, folds, 3, weights=weights, alphas=ALPHAS)
    np.testing.assert_allclose(shared.scores, own.scores, rtol=1e-8)


@pytest.mark.parametrize(
    ("network", "n_models", "expected"), [("mlp", 30, True), ("mlp", 300, False), ("cnn", 2, False)]
)
def test_large_rows_and_those_of_convolutions_are_not_copied_for_every_model(network, n_models, expected):
    made = MLP((2,)).build(64, 1) if network == "mlp" else CNN((2,), input_shape=(1, 8, 8)).build(64, 1)
    rng = np.random.default_rng(0)
    problem = make_problem(made, SquaredError(), tensor(rng.normal(size=(80, 64))), tensor(rng.normal(size=(80, 1))))
    theta = tensor(np.zeros((1, made.n_parameters)))
    folds = torch.arange(80)[None] % 5
    race = _penalty_race.PenaltyRace(problem, theta, folds, 3, np.array([ALPHAS]), 1e-2, None, {})
    assert race._gives_rows(n_models) is expected
    assert race._gives_rows(1)


def test_under_a_limit_of_time_all_penalties_have_equally_much(monkeypatch, runs):
    X, y, rng = table(1, n_features=1, noise=0.3)
    monkeypatch.setattr(_penalty_race, "CACHED_BYTES", 1)
    search(X, y, rng.permutation(40) % 5, 3, hidden=(5,), stopping=Stopping(max_time=60.0))
    assert len(runs[0][0].alpha) == 30


def test_rows_have_to_be_in_memory():
    X, y, _ = table()
    rows = StreamedRows(X, np.zeros(8), np.ones(8), torch.device("cpu"), torch.float64)
    network = MLP((3,)).build(8, 1)
    problem = make_problem(network, SquaredError(), rows, tensor(y))
    with pytest.raises(TypeError, match="rows in memory"):
        cross_validate_alpha(problem, tensor(np.zeros((1, network.n_parameters))), torch.zeros(1, 40), 1)


def test_pure_noise_takes_much_penalty_and_a_smooth_function_none():
    rng = np.random.default_rng(0)
    x, folds = rng.uniform(-1, 1, (60, 1)), rng.permutation(60) % 5
    noise = search(x, rng.normal(size=(60, 1)), folds, 3, hidden=(8,))
    assert noise.best[0] <= 1
    assert not noise.noiseless[0]
    smooth = search(x, np.sin(3 * x) + x**2, folds, 3, hidden=(8,))
    assert smooth.chosen[0] == 0
    assert smooth.scores[0].min() < 1e-4
    assert smooth.noiseless[0]


def test_what_folds_do_not_settle_is_told():
    x = np.random.default_rng(100).uniform(-1, 1, (80, 1))
    folds = np.random.default_rng(0).permutation(80) % 5
    for noise in (0.02, 0.3):
        y = np.sin(5 * x) + noise * np.random.default_rng(1).normal(size=(80, 1))
        asked, told = (search(x, y, folds, 3, hidden=(10,), settle=settle) for settle in (True, False))
        assert told.best == asked.best
        assert told.chosen[0] > 0
        assert (told.doubtful[0], asked.doubtful[0]) == (noise < 0.1, False)
        assert not told.noiseless[0]


def test_candidates_far_behind_are_not_trained_on(runs):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (60, 1))
    search(x, np.sin(3 * x), rng.permutation(60) % 5, 3, hidden=(8,))
    sizes = [len(problem.alpha) for problem, _ in runs]
    assert sizes[0] == 3 * len(_cross_validation.ALPHAS)
    assert sizes[-1] <= sizes[0] / 2


def test_folds_without_weight_do_not_count():
    X, y, rng = table()
    folds, weights = rng.permutation(40) % 3, np.ones(40)
    weights[folds == 1] = 0
    got = search(X, y, folds, 3, weights=tensor(weights), alphas=ALPHAS)
    rest = folds != 1
    want = search(X[rest], y[rest], folds[rest] // 2, 2, alphas=ALPHAS)
    np.testing.assert_allclose(got.scores, want.scores, rtol=1e-7)
    assert got.best == want.best


def test_no_time_is_no_reason_to_fail():
    X, y, rng = table(1, n_features=1)
    got = search(X, y, rng.permutation(40) % 5, 3, hidden=(5,), stopping=Stopping(max_time=0.0))
    assert np.isfinite(got.scores).all()


def test_a_keyboard_interrupt_ends_the_search():
    class Interrupted(SquaredError):
        calls = 0

        def value(self, outputs, y, weights):
            Interrupted.calls += 1
            if Interrupted.calls == 5:
                raise KeyboardInterrupt
            return super().value(outputs, y, weights)

    X, y, rng = table()
    network = MLP((3,)).build(8, 1)
    problem = make_problem(network, Interrupted(), tensor(X), tensor(y))
    with pytest.raises(KeyboardInterrupt):
        cross_validate_alpha(
            problem,
            torch.ones((1, network.n_parameters), dtype=torch.float64),
            torch.from_numpy(rng.permutation(40) % 5)[None],
            3,
        )


@pytest.mark.parametrize("solver", ["cholesky", "eigh", "qr", "dual"])
def test_solvers_agree(solver):
    X, y, rng = table()
    folds = rng.permutation(40) % 3
    got = search(X, y, folds, 3, alphas=ALPHAS, solver=solver)
    want = [ridge(X, y, folds, 3, alpha, np.ones(40)) for alpha in ALPHAS]
    np.testing.assert_allclose(got.scores[0], want, rtol=1e-5)


class Scripted:
    """A race whose scores (stages, A) are known beforehand; nothing comes to an end."""

    def __init__(self, alphas, stages):
        self.alphas, self.stages = np.array([alphas]), iter(stages)
        self.shape, self.share = (1, len(alphas), 1), np.ones((1, 1, 1))
        self.scores = np.full((1, len(alphas)), np.inf)
        self.losses = self.scores[:, :, None]

    def train(self, which, stopping):
        self.scores = np.where(which, np.array([next(self.stages)]), self.scores)
        self.losses = self.scores[:, :, None]
        return np.zeros(self.shape[:2], dtype=bool), True

    def models(self, best):
        return torch.zeros((1, 1, 2)), np.take_along_axis(self.scores, best[:, None], 1)


def decided(alphas, stages, null_loss=0.5, settle=False):
    race = Scripted(alphas, [*stages, stages[-1], stages[-1], stages[-1], stages[-1]])
    return _cross_validation._decide(race, Stopping(), np.array([null_loss]), settle, None)


def test_what_has_only_come_back_does_not_improve():
    stages = [(0.39, 0.397), (0.38, 0.422), (0.375, 0.432), (0.373, 0.4755), (0.373, 0.4252)]
    assert decided((1e-3, 0.0), stages).chosen[0] == 1e-3
    falling = [(0.39, 0.57), (0.38, 0.55), (0.375, 0.5), (0.373, 0.45), (0.373, 0.39)]
    assert decided((1e-3, 0.0), falling).chosen[0] == 0


@pytest.mark.parametrize(("score", "chosen"), [(0.0082, 1e-6), (0.0062, 0.0)])
def test_with_noise_no_penalty_must_be_clearly_better(score, chosen):
    found = decided((1e-5, 1e-6, 0.0), [(0.00847, 0.00845, score)])
    assert found.chosen[0] == chosen
    assert not found.noiseless[0]
    assert found.doubtful[0] == (chosen > 0)  # it is the least, and not much is left
    assert not decided((1e-5, 1e-6, 0.0), [(0.1, 0.09, 0.085)]).doubtful[0]
    assert not decided((1e-5, 1e-6, 0.0), [(0.008, 0.0085, 0.0085)]).doubtful[0]


@pytest.mark.parametrize("settle", [False, True])
def test_none_is_compared_at_the_end_where_some_is_left(settle):
    def ended(early, late):
        return decided((1e-5, 1e-6, 0.0), [early, late], settle=settle)

    worse = ended((0.01, 0.003, 0.001), (0.01, 0.002, 0.004))
    assert worse.chosen[0] == 1e-6
    assert not worse.noiseless[0]
    assert worse.doubtful[0] == (not settle)
    assert worse.scores[0].tolist() == [0.01, 0.002, 0.004]
    better = ended((0.01, 0.003, 0.001), (0.01, 0.002, 0.0005))
    assert better.chosen[0] == 0
    assert better.noiseless[0]
    assert not better.doubtful[0]
    both_worse = ended((0.01, 0.003, 0.001), (0.01, 0.02, 0.04))
    assert both_worse.chosen[0] == 1e-5
    noise = ended((0.3, 0.2, 0.001), (0.3, 0.2, 0.1))
    assert noise.chosen[0] == 0
    assert not noise.noiseless[0]
    nothing = ended((1e-4, 3e-5, 1e-5), (1e-4, 2e-5, 4e-5))  # is not asked
    assert nothing.chosen[0] == 0
    assert nothing.scores[0].tolist() == [1e-4, 3e-5, 1e-5]


def test_after_the_time_is_up_nothing_goes_on():
    race = Scripted((1e-5, 1e-6, 0.0), [(0.01, 0.003, 0.002), (0.01, 0.0025, 0.001)])
    train, calls = race.train, []

    def late(which, stopping):
        calls.append(which)
        return train(which, stopping)[0], len(calls) < 2

    race.train = late
    found = _cross_validation._decide(race, Stopping(), np.array([0.5]), False, None)
    assert len(calls) == 2
    assert found.scores[0].tolist() == [0.01, 0.003, 0.002]


def test_without_time_for_the_end_what_is_known_stays():
    race = Scripted((1e-5, 1e-6, 0.0), [(0.01, 0.003, 0.001), (0.01, 0.0025, 0.004)])
    train = race.train
    race.train = lambda which, stopping: (train(which, stopping)[0], stopping.max_iter == 20)
    found = _cross_validation._decide(race, Stopping(), np.array([0.5]), False, None)
    assert found.chosen[0] == 0
    assert found.scores[0].tolist() == [0.01, 0.003, 0.001]
