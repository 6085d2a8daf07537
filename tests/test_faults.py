"""Options that cannot be meant, faults in the middle of a fit, Ctrl-C: all or nothing, and a reason."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils.validation import check_is_fitted

import sklm._solving
import sklm._streaming
import sklm._training_set
from sklm import MLP, LMRegressor
from sklm.optim import GainRatio, Geodesic, levenberg_marquardt

ignore_max_iter = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def surface(n=60):
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, size=(n, 2))
    return X, np.sin(2 * X[:, 0]) + X[:, 1] ** 2


def small(**options):
    return LMRegressor(**{"hidden_layer_sizes": 4, "random_state": 0, "max_iter": 10, "n_init": 1, **options})


class Rows(torch.nn.Module):
    """A module from a function of (a, X) with one parameter a."""

    def __init__(self, function, a=1.0):
        super().__init__()
        self.function = function
        self.a = torch.nn.Parameter(torch.tensor(a))

    def forward(self, X):
        return self.function(self.a, X)


class Hook:
    """A scikit-learn callback that runs a function after iteration number ``when``."""

    def __init__(self, action, when=1):
        self.action, self.when, self.calls = action, when, 0

    def setup(self, estimator, context): ...

    def on_fit_task_begin(self, estimator, context): ...

    def on_fit_task_end(self, estimator, context):
        self.calls += 1
        return self.action() if self.calls == self.when else False

    def teardown(self, estimator, context): ...


def interrupt():
    raise KeyboardInterrupt


def fail():
    raise RuntimeError("the disk is full")


# -- options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_layer_sizes", 0),
        ("hidden_layer_sizes", "20"),
        ("activation", "gelu"),
        ("architecture", "mlp"),
        ("architecture", torch.nn.Linear),
        ("architecture", MLP),
        ("loss", "absolute"),
        ("alpha", -1),
        ("alpha", np.nan),
        ("damping", 1e30),
        ("damping", 0),
        ("damping", np.inf),
        ("damping_strategy", "dogleg"),
        ("damping_strategy", object()),
        ("damping_strategy", GainRatio),
        ("damping_scaling", "diag"),
        ("acceleration", "nesterov"),
        ("solver", "lu"),
        ("batch_size", 0),
        ("jacobian_max_rows", 0),
        ("growing", "yes"),
        ("max_iter", 0),
        ("max_time", 0),
        ("target_loss", -1),
        ("tol", 1),
        ("tol", np.nan),
        ("n_iter_no_change", 0),
        ("early_stopping", "yes"),
        ("validation_fraction", 0),
        ("validation_fraction", 1.0),
        ("standardize", "minmax"),
        ("init", "kaiming"),
        ("n_init", 0),
        ("warm_start", "yes"),
        ("random_state", "seed"),
        ("device", 3.5),
        ("dtype", "float16"),
        ("verbose", -1),
    ],
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_unknown_option_values(method, name, value):
    with pytest.raises(ValueError, match=f"The '{name}' parameter of LMRegressor must be"):
        getattr(small(**{name: value}), method)(*surface())


@pytest.mark.parametrize("sizes", [(3, 0), (2.5,), (True,), [[1, 2], [3, 4]], (3, None)])
def test_hidden_layers_that_are_none(sizes):
    with pytest.raises(ValueError, match="hidden_layer_sizes must be positive integers, one a hidden layer; got"):
        small(hidden_layer_sizes=sizes).fit(*surface())


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "meta"])
def test_device_that_is_not_there(device):
    with pytest.raises(ValueError, match=r"device.*'cpu'"):
        small(device=device).fit(*surface())


def test_strategy_without_update():
    class Half:
        def start(self, damping):
            return {}

    with pytest.raises(ValueError, match="The 'damping_strategy' parameter of LMRegressor must be"):
        small(damping_strategy=Half()).fit(*surface())


@ignore_max_iter
def test_own_strategy_without_a_base_class():
    class Constant:
        def start(self, damping):
            return {}

        def update(self, trial, memory):
            return trial.gain_ratio > 0, trial.damping, memory

    model = small(damping_strategy=Constant(), damping=0.5).fit(*surface())
    assert_array_equal(model.damping_curve_, 0.5)
    assert model.loss_curve_[-1] < model.loss_curve_[0]


@ignore_max_iter
def test_a_strategy_cannot_make_the_fit_accept_what_is_not_finite():
    class Reckless:
        def start(self, damping):
            return {}

        def update(self, trial, memory):
            return torch.ones_like(trial.damping, dtype=torch.bool), trial.damping * torch.nan, memory

    model = LMRegressor(architecture=Rows(lambda a, X: torch.log(a) * X[:, 0]), damping_strategy=Reckless())
    X, _ = surface()
    model.fit(X, -20 * X[:, 0])  # the first step goes to log of a negative number
    assert np.isfinite(model.predict(X)).all()
    assert model.n_iter_ < 50


def test_architecture_and_its_parameters_cannot_both_be_given():
    for options in ({"hidden_layer_sizes": 4}, {"activation": "sin"}):
        with pytest.raises(ValueError, match=rf"{next(iter(options))} would be ignored because architecture is given"):
            LMRegressor(architecture=MLP((5,)), **options).fit(*surface())


def test_architecture_checks_its_own_parameters():
    with pytest.raises(ValueError, match="activation must be one of"):
        LMRegressor(architecture=MLP((5,), "gelu")).fit(*surface())
    with pytest.raises(ValueError, match=r"Invalid parameter 'depth'.*hidden_layer_sizes"):
        LMRegressor(architecture=MLP()).set_params(architecture__depth=3)


def test_hold_out_too_small():
    X, y = surface()
    with pytest.raises(
        ValueError, match="leaves 1 of n_samples=5 rows for validation and 4 for training; at least 2 and 1 are"
    ):
        small(early_stopping=True).fit(X[:5], y[:5])
    with pytest.raises(ValueError, match=r"leaves 60 of n_samples=60 rows for validation and 0 for training"):
        small(early_stopping=True, validation_fraction=0.999).fit(X, y)


# -- modules -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "match"),
    [
        (Rows(lambda a, X: a * X), r"must return shape \(n, 1\) or \(n,\).*for n = 3 it returned \(3, 2\)"),
        (Rows(lambda a, X: a * X.sum()), r"for n = 3 it returned \(\)"),
        (Rows(lambda a, X: (a * X,)), "must return a tensor; it returned tuple"),
        (torch.nn.Linear(3, 1), r"could not be evaluated on a batch of shape \(3, 2\)"),
        (Rows(lambda a, X: a * (X @ torch.ones(2))), r"evaluated in float64: make constants with dtype=rows\.dtype"),
        (torch.nn.Identity(), "no parameter with requires_grad=True: there is nothing to fit"),
        (torch.nn.Linear(2, 1).requires_grad_(False), "no parameter with requires_grad=True"),
        (Rows(lambda a, X: torch.log(-a) * X[:, 0]), "objective is not finite at the starting values"),
        (Rows(lambda a, X: a * X[:, 0] / 0), "objective is not finite at the starting values"),
        (Rows(lambda a, X: torch.log(a * X[:, 0])), "NaN or infinite on the training rows"),
        (torch.nn.Linear(2, 1, dtype=torch.complex64), "complex"),
        (Rows(lambda a, X: a * X[:, 0] * 1j), "complex|real"),
        (Rows(lambda a, X: (a * X[:, 0]).long()), "floating|real|integer"),
        (Rows(lambda a, X: a * (X[:, 0] - X[:, 0].mean())), "row"),
    ],
    ids=[
        "wide", "scalar", "tuple", "inputs", "single constants", "no parameters", "frozen",
        "nan", "inf", "some nan", "complex", "complex output", "integers", "mixes rows",
    ],
)  # fmt: skip
def test_module_refused(module, match):
    model = LMRegressor(architecture=module)
    with pytest.raises(ValueError, match=match):
        model.fit(*surface())
    with pytest.raises(NotFittedError):
        check_is_fitted(model)


def test_module_for_one_target_with_two_targets():
    X, y = surface()
    with pytest.raises(ValueError, match=r"must return shape \(n, 2\) for n rows and 2 target column"):
        LMRegressor(architecture=torch.nn.Linear(2, 1)).fit(X, np.c_[y, y])


def test_module_has_no_named_start():
    with pytest.raises(ValueError, match="init must be 'auto' for a module"):
        LMRegressor(architecture=torch.nn.Linear(2, 1), init="glorot").fit(*surface())


def test_module_of_biases_has_nothing_to_penalise():
    class Offset(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = torch.nn.Parameter(torch.zeros(1))

        def forward(self, X):
            return X[:, 0] + self.bias

    with pytest.raises(ValueError, match="alpha > 0 would have no effect"):
        LMRegressor(architecture=Offset(), alpha=0.1).fit(*surface())


# -- not finite on the way ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["gain_ratio", "multiplicative", "delayed_gratification"])
def test_a_trial_that_is_not_finite_is_a_rejected_step(strategy):
    # sqrt(a) with the minimum near zero: long steps leave the domain
    X = np.linspace(1, 2, 30)[:, None]
    module = Rows(lambda a, X: torch.sqrt(a) * X[:, 0], a=9.0)
    model = LMRegressor(architecture=module, damping=1e-10, damping_strategy=strategy, tol=0, n_iter_no_change=100)
    model.fit(X, 1e-3 * X[:, 0])
    np.testing.assert_allclose(model.theta_, 1e-6, rtol=1e-3)
    assert np.isfinite(model.loss_curve_).all()
    assert np.all(np.diff(model.loss_curve_) <= 0)


@pytest.mark.parametrize("strategy", ["gain_ratio", "multiplicative", "delayed_gratification"])
def test_damping_has_a_cap_and_the_loop_ends(strategy):
    # finite only at the start: no step is ever accepted
    module = Rows(lambda a, X: a * X[:, 0] + torch.where(a == 1.0, 0.0, torch.inf))
    X, y = surface()
    began = time.monotonic()
    model = LMRegressor(architecture=module, damping_strategy=strategy, max_iter=10**6, n_iter_no_change=np.inf, tol=0)
    with pytest.warns(ConvergenceWarning, match="No step lowers the objective although its gradient is not zero"):
        model.fit(X, y)
    assert time.monotonic() - began < 10
    assert (model.status_, model.converged_) == ("stalled", False)
    assert model.n_iter_ < 200
    assert model.theta_[0] == 1.0
    assert model.message_


def test_one_bad_start_does_not_spoil_the_others():
    X = np.linspace(1, 2, 30)[:, None]
    module = Rows(lambda a, X: torch.log(a) * X[:, 0])  # other starts may draw a < 0
    model = LMRegressor(architecture=module, n_init=20, random_state=0, tol=0).fit(X, 2 * X[:, 0])
    np.testing.assert_allclose(model.theta_, np.exp(2), rtol=1e-6)


# -- memory ------------------------------------------------------------------------------------------------------


def test_too_large_a_network_is_refused_before_allocating(monkeypatch):
    for module in (sklm._solving, sklm._training_set):
        monkeypatch.setattr(module, "available_bytes", lambda device: 10**8)
    X, y = surface(5000)
    model = small(hidden_layer_sizes=(100, 100), solver="cholesky")
    began = time.monotonic()
    with pytest.raises(MemoryError, match=r"10501 parameters .* needs about .* [MG]iB .* 76\.3 MiB are free on cpu"):
        model.fit(X, y)
    assert time.monotonic() - began < 2
    with pytest.raises(NotFittedError):
        check_is_fitted(model)


@pytest.mark.parametrize("hidden", [10**9, 10**12, (10**6, 10**6), (50_000, 50_000)])
def test_parameters_that_do_not_fit_alone_are_refused_at_once(hidden):
    X, y = surface(50)
    began = time.monotonic()
    with pytest.raises(MemoryError, match=r"are free in memory, and MLP\(.*0000.*needs .* parameters.* Use fewer"):
        LMRegressor(hidden).fit(X, y)
    assert time.monotonic() - began < 1


@ignore_max_iter
def test_the_memory_message_names_an_option_that_helps(monkeypatch):
    for module in (sklm._solving, sklm._training_set):
        monkeypatch.setattr(module, "available_bytes", lambda device: 10**7)
    X, y = surface(5000)
    large = {"hidden_layer_sizes": (40, 40), "max_iter": 1}
    help_ = r"solver='cg', .* batch_memory=None and a batch_size below the number of parameters"
    with pytest.raises(MemoryError, match=help_):
        small(**large, solver="cholesky").fit(X, y)
    small(**large, batch_size=100, batch_memory=None).fit(X, y)
    small(**large, solver="cg").fit(X, y)
    # few rows and a forced primal solver: the way out is the dual
    with pytest.raises(MemoryError, match=r"solver='(auto|dual)'"):
        small(**large, solver="cholesky").fit(X[:50], y[:50])
    small(**large, solver="dual").fit(X[:50], y[:50])


@ignore_max_iter
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_what_fits_into_no_memory_is_solved_by_products(method, monkeypatch):
    """'auto' is 'cg', with plain steps, where neither the P x P nor the N x N system fits, and only there."""
    X, y = surface(2000)
    seen = []

    def watched(*given, **options):
        seen.append((options["solver"], options["acceleration"]))
        return levenberg_marquardt(*given, **options)

    for module in (sklm._prepared, sklm._streaming):
        monkeypatch.setattr(module, "levenberg_marquardt", watched)
    large = {"hidden_layer_sizes": (40, 40), "max_iter": 1, "growing": False}
    for free, options in ((10**10, {}), (10**7, {}), (10**7, {"acceleration": "geodesic"})):
        for module in (sklm._solving, sklm._training_set):
            monkeypatch.setattr(module, "available_bytes", lambda device, free=free: free)
        getattr(small(**large, **options), method)(X, y)
    streams = method == "partial_fit"  # of batches with fewer rows than it remembers
    assert [solver for solver, _ in seen] == ["dual" if streams else "auto", "cg", "cg"]
    assert [[type(rule) for rule in rules] for _, rules in seen] == [[] if streams else [Geodesic], [], [Geodesic]]


@ignore_max_iter
def test_starts_that_do_not_fit_together_are_fitted_in_turn(monkeypatch):
    X, y = surface()
    together = small(n_init=6).fit(X, y)
    monkeypatch.setattr(sklm._solving.Solving, "_check_memory", lambda *_: 2)
    in_turn = small(n_init=6).fit(X, y)
    np.testing.assert_allclose(in_turn.loss_, together.loss_, rtol=1e-9)
    np.testing.assert_allclose(in_turn.predict(X), together.predict(X), rtol=1e-7, atol=1e-7)


@ignore_max_iter
def test_max_time_is_for_all_starts_together(monkeypatch):
    monkeypatch.setattr(sklm._solving.Solving, "_check_memory", lambda *_: 1)
    began = time.monotonic()
    small(n_init=12, max_time=0.3, max_iter=10**7, tol=0, n_iter_no_change=np.inf).fit(*surface(500))
    assert time.monotonic() - began < 2


# -- all or nothing ----------------------------------------------------------------------------------------------


def state(model):
    return {name: value for name, value in vars(model).items() if name.endswith("_") or name.startswith("_")}


def broken_refits():
    X, y = surface()
    bad = X.copy()
    bad[0, 0] = np.nan
    yield "nan", lambda m: m.fit(bad, y), ValueError
    yield "wider", lambda m: m.fit(np.c_[X, bad], y), ValueError
    yield "strings", lambda m: m.fit(X.astype(str), y), TypeError
    yield "no weight", lambda m: m.fit(X, y, np.zeros(60)), ValueError
    yield "option", lambda m: m.set_params(solver="lu").fit(np.c_[X, X], y), ValueError
    yield "sizes", lambda m: m.set_params(hidden_layer_sizes=(0, 1)).fit(np.c_[X, X], y), ValueError
    yield "hold-out", lambda m: m.set_params(early_stopping=True).fit(np.c_[X, X][:3], y[:3]), ValueError
    yield "device", lambda m: m.set_params(device="cuda:99").fit(np.c_[X, X], y), ValueError
    yield "callback", lambda m: m.set_callbacks(Hook(fail)).fit(np.c_[X, X], y), RuntimeError
    yield "partial", lambda m: m.partial_fit(bad, y), ValueError
    yield "partial columns", lambda m: m.partial_fit(np.c_[X, X], y), ValueError
    yield (
        "module",
        lambda m: m.set_params(hidden_layer_sizes="auto", architecture=Rows(lambda a, X: torch.log(-a) * X[:, 0])).fit(
            np.c_[X, X], y
        ),
        ValueError,
    )


@pytest.mark.parametrize(("name", "refit", "kind"), list(broken_refits()), ids=[case[0] for case in broken_refits()])
@ignore_max_iter
def test_a_failed_refit_leaves_the_old_model(name, refit, kind):
    X, y = surface()
    model = small().fit(X, y)
    before, predicted = state(model), model.predict(X)
    with pytest.raises(kind):
        refit(model)
    after = state(model)
    after.pop("_skl_callbacks", None)
    assert after.keys() == before.keys()
    assert all(after[key] is before[key] for key in before)
    assert_array_equal(model.predict(X), predicted)
    assert model.n_features_in_ == 2


@ignore_max_iter
def test_a_failed_first_fit_leaves_it_unfitted():
    X, y = surface()
    model = small().set_callbacks(Hook(fail))
    with pytest.raises(RuntimeError, match="the disk is full"):
        model.fit(X, y)
    assert set(state(model)) == {"_skl_callbacks"}
    with pytest.raises(NotFittedError):
        model.predict(X)
    model.set_callbacks().fit(X, y)
    assert_array_equal(model.predict(X), small().fit(X, y).predict(X))


@ignore_max_iter
def test_a_refit_forgets_the_old_feature_names():
    import pandas as pd

    X, y = surface()
    model = small().fit(pd.DataFrame(X, columns=["a", "b"]), y)
    model.fit(np.c_[X, X], y)
    assert not hasattr(model, "feature_names_in_")
    assert model.predict(np.c_[X, X]).shape == (60,)


# -- Ctrl-C ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"batch_size": 200}, {"growing": True}, {"early_stopping": True}], ids=str)
def test_interrupt_keeps_the_best_model_with_a_warning(options):
    X, y = surface(2500)
    model = small(hidden_layer_sizes=2, max_iter=500, tol=0, **options).set_callbacks(Hook(interrupt, when=6))
    with pytest.warns(UserWarning, match="interrupted by the user; the best model so far is kept"):
        model.fit(X, y)
    assert (model.status_, model.converged_) == ("interrupted", False)
    assert "interrupted" in model.message_
    assert 5 <= model.n_iter_ <= 6
    if not options.get("early_stopping"):
        np.testing.assert_allclose(model.loss_, 0.5 * np.mean((model.predict(X) - y) ** 2), rtol=1e-9)
    assert model.score(X, y) > 0


@pytest.mark.parametrize("growing", [True, False])
@pytest.mark.parametrize("when", range(2, 44, 3))
def test_interrupt_ends_all_starts(growing, when):
    # some starts have ended by themselves by then; the interrupt must not be taken for the end of a stage
    X, y = surface(2500)
    hook = Hook(interrupt, when=when)
    model = small(hidden_layer_sizes=2, n_init=5, max_iter=500, tol=1e-2, growing=growing).set_callbacks(hook)
    with pytest.warns(UserWarning, match="interrupted by the user"):
        model.fit(X, y)
    assert hook.calls <= when + 1  # the end of the whole fit
    assert model.score(X, y) > 0.05


@pytest.mark.parametrize("growing", [True, False])
@pytest.mark.parametrize("when", range(2, 44, 3))
@ignore_max_iter
def test_a_callback_ends_all_starts(growing, when):
    X, y = surface(2500)
    hook = Hook(lambda: True, when=when)
    model = small(hidden_layer_sizes=2, n_init=5, max_iter=500, tol=1e-2, growing=growing).set_callbacks(hook)
    model.fit(X, y)
    assert hook.calls <= when + 1
    assert model.n_iter_ <= when


@ignore_max_iter
def test_a_callback_ends_starts_that_run_in_turn(monkeypatch):
    monkeypatch.setattr(sklm._solving.Solving, "_check_memory", lambda *_: 1)
    hook = Hook(lambda: True, when=3)
    small(n_init=5, max_iter=50, tol=0).set_callbacks(hook).fit(*surface())
    assert hook.calls <= 4


def test_interrupted_refit_is_the_new_model_and_complete():
    X, y = surface()
    with pytest.warns(ConvergenceWarning):
        model = small().fit(X, y)
    model.set_callbacks(Hook(interrupt, when=3))
    with pytest.warns(UserWarning, match="interrupted"):
        model.fit(np.c_[X, X], y)
    assert model.n_features_in_ == 4
    assert model.predict(np.c_[X, X]).shape == (60,)
    assert len(model.loss_curve_) == model.n_iter_


def test_interrupt_before_the_first_iteration_leaves_the_old_model(monkeypatch):
    X, y = surface()
    with pytest.warns(ConvergenceWarning):
        model = small().fit(X, y)
    before = state(model)
    monkeypatch.setattr(sklm._solving.Solving, "_problem", lambda *_: interrupt())
    with pytest.raises(KeyboardInterrupt):
        model.fit(np.c_[X, X], y)
    after = state(model)
    assert after.keys() == before.keys()
    assert all(after[key] is before[key] for key in before)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to one process")
def test_ctrl_c_is_heard_within_a_second():
    script = textwrap.dedent("""
        import signal, time, warnings
        import numpy as np
        from sklm import LMRegressor

        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background


        class Begun:
            def setup(self, estimator, context): ...
            def on_fit_task_begin(self, estimator, context): ...
            def on_fit_task_end(self, estimator, context):
                if not hasattr(self, "told"):
                    self.told = print("go", flush=True)
            def teardown(self, estimator, context): ...


        rng = np.random.default_rng(0)
        X = rng.uniform(-2, 2, size=(4000, 3))
        y = np.sin(2 * X).sum(1) + X[:, 0] * X[:, 1] * X[:, 2]
        for options in (
            {"alpha": "auto"},
            {"n_init": 4, "jacobian_max_rows": 100},
            {"batch_size": 1000, "verbose": 1},
            {"growing": False, "acceleration": None},
        ):
            options = {"alpha": 1e-6, "max_iter": 10**7, "tol": 0, "n_iter_no_change": 10**7, **options}
            model = LMRegressor(40, random_state=0, **options)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model.set_callbacks(Begun()).fit(X, y)
            print("end", time.time(), model.status_, model.loss_ / np.mean((model.predict(X) - y) ** 2), flush=True)
            print("warned", [str(w.message) for w in caught], flush=True)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=os.getcwd()
    ) as process:
        limit = threading.Timer(60, process.kill)  # one that does not hear ends, too
        limit.start()
        try:
            for _ in range(4):
                assert process.stdout.readline() == "go\n", process.stderr.read()  # the first iteration is done
                time.sleep(0.3)
                sent = time.time()
                process.send_signal(signal.SIGINT)
                _, when, status, ratio = process.stdout.readline().split()
                assert float(when) - sent < 1.5  # a second, and one for the score of a loaded machine
                assert status == "interrupted"
                assert float(ratio) == pytest.approx(0.5)  # a whole model: its loss belongs to its weights
                assert process.stdout.readline().count("Training interrupted by the user") == 1
            _, err = process.communicate(timeout=20)
            assert process.returncode == 0, err
        finally:
            limit.cancel()
            process.kill()
