"""Curve fitters as functions ``(contest, seed, watch)``: one start after the other until the watch says ``Over``.

All but ``LMRegressor`` get inputs and targets of mean 0 and variance 1. A start is at most 1000 iterations (for L-BFGS
and Adam 50 000), and the next one begins where the method itself ends. Starts are drawn as the package does by default;
where it has no networks of its own, as ``torch.nn.Linear`` does, U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
"""

from __future__ import annotations

import importlib.util
import time
from functools import partial
from itertools import count

import numpy as np
import torch

from sklm import MLP, LMClassifier, LMRegressor
from sklm.architectures import Inputs

ITERATIONS, CHEAP_ITERATIONS = 1000, 50_000


class NumpyNet:
    """Residuals (N,) and exact Jacobian (N, P) of a net with one hidden layer of tanh units, in numpy.

    theta (P,) holds the hidden weights (H, F) row by row, hidden biases, output weights, output bias.
    """

    def __init__(self, X, y, hidden):
        self.inputs, self.y, self.hidden = np.ascontiguousarray(X.T), y, hidden
        self.n_weights = hidden * len(self.inputs)
        self.n_parameters = self.n_weights + 2 * hidden + 1
        self.theta, self.values = None, None

    def pieces(self, theta):
        first, bias, second, last = np.split(theta, np.cumsum([self.n_weights, self.hidden, self.hidden]))
        return first.reshape(self.hidden, -1), bias[:, None], second, last

    def hidden_values(self, theta):
        """Values of the hidden units (H, N); those of the last theta are kept."""
        if self.theta is None or not np.array_equal(theta, self.theta):
            weight, bias, _, _ = self.pieces(theta)
            z = weight @ self.inputs
            z += bias
            self.theta, self.values = theta.copy(), np.tanh(z, out=z)
        return self.values

    def residuals(self, theta):
        _, _, second, last = self.pieces(theta)
        return second @ self.hidden_values(theta) + (last - self.y)

    def jacobian(self, theta):
        values, second = self.hidden_values(theta), self.pieces(theta)[2]
        rows = np.empty((self.n_parameters, len(self.y)))
        weights, slopes, outer = np.split(rows[:-1], [self.n_weights, self.n_weights + self.hidden])
        np.multiply(values, values, out=slopes)
        np.subtract(1, slopes, out=slopes)
        slopes *= second[:, None]
        np.multiply(slopes[:, None], self.inputs, out=weights.reshape(self.hidden, *self.inputs.shape))
        outer[:], rows[-1] = values, 1
        return rows.T

    def uniform(self, rng):
        """A start as ``torch.nn.Linear`` draws it."""
        sizes = (self.n_weights + self.hidden, self.hidden + 1)
        bounds = (len(self.inputs) ** -0.5, self.hidden**-0.5)
        return np.concatenate([rng.uniform(-b, b, n) for b, n in zip(bounds, sizes, strict=True)])


def starts(contest, seed, watch, net, own):
    """Yield start vectors (P,) without end, from the distribution of torch or, with ``own``, those of sklm."""
    architecture = MLP(contest.hidden)
    network, inputs = architecture.build(contest.X.shape[1], 1), Inputs.of(contest.scaled[0])
    for number in count():
        rng = np.random.default_rng([seed, number])
        if own:
            # kinds of starts take turns
            generators = [np.random.default_rng([seed, k]) for k in range(number % 4)] + [rng]
            theta = architecture.starts(network, "auto", inputs, generators)[-1]
        else:
            theta = net.uniform(rng)
        watch.starts += 1
        yield theta


def fits(estimator, goal, judge):
    """An estimator without penalty, as for all others, one fit after the other, to ``goal(contest)``."""

    def run(contest, seed, watch):
        for number in count():
            watch.starts += 1
            model = estimator(contest.hidden, alpha=0.0, random_state=1000 * seed + number)
            model.set_params(target_loss=goal(contest), max_time=max(watch.left, 1e-3)).fit(contest.X, contest.y)
            with watch.stopped():
                reached = judge(model, contest)
            watch.see(reached)

    return run


def sklm(**options):
    """``LMRegressor``, by the mean squared error."""
    return fits(
        partial(LMRegressor, **options),
        lambda contest: contest.target / 2,
        lambda model, contest: np.mean((model.predict(contest.X) - contest.y) ** 2),
    )


def sklm_classes(**options):
    """``LMClassifier``, by the log-loss."""
    return fits(
        partial(LMClassifier, **options),
        lambda contest: contest.target,
        lambda model, contest: log_loss(contest.y, model.predict_log_proba(contest.X)),
    )


def log_loss(y, log_probabilities):
    """Mean of the negative logarithms of the probabilities of the right classes."""
    return -np.mean(log_probabilities[np.arange(len(y)), y])


def scipy(method, own=False):
    """``scipy.optimize.least_squares`` with the exact Jacobian, tolerances at the rounding error, default scales."""

    def run(contest, seed, watch):
        from scipy.optimize import least_squares

        X, y = contest.scaled
        net, unit = NumpyNet(X, y, contest.hidden), contest.y.var() / len(y)

        def residuals(theta):
            r = net.residuals(theta)
            watch.see(unit * (r @ r))
            return r

        for theta in starts(contest, seed, watch, net, own):
            least_squares(
                residuals, theta, net.jacobian, method=method, ftol=1e-15, xtol=1e-15, gtol=1e-15, max_nfev=ITERATIONS
            )

    return run


def mlp(solver):
    """``MLPRegressor``, or ``MLPClassifier`` for classes, without penalty, judged at every evaluation or epoch."""

    def run(contest, seed, watch):
        from sklearn.neural_network import MLPClassifier, MLPRegressor

        (inputs, targets), variance = contest.scaled, contest.y.var()

        def loss_of(model):
            if contest.classes:
                return log_loss(targets, model.predict_log_proba(inputs))
            return np.mean((model._predict(inputs, check_input=False) - targets) ** 2) * variance

        # the loss of regression is half the mean square
        kind, factor = (MLPClassifier, 1.0) if contest.classes else (MLPRegressor, 2 * variance)

        class Judged(kind):
            def _loss_grad_lbfgs(self, *args):
                loss, gradient = super()._loss_grad_lbfgs(*args)
                watch.see(factor * loss)
                return loss, gradient

            def _update_no_improvement_count(self, early_stopping, X, y, sample_weight):
                super()._update_no_improvement_count(early_stopping, X, y, sample_weight)
                with watch.stopped():
                    loss = loss_of(self)
                watch.see(loss)

        for number in count():
            watch.starts += 1
            Judged(
                hidden_layer_sizes=contest.hidden,
                activation="tanh",
                solver=solver,
                alpha=0.0,
                tol=1e-12,
                n_iter_no_change=100,
                max_iter=CHEAP_ITERATIONS,
                max_fun=10 * CHEAP_ITERATIONS,
                random_state=1000 * seed + number,
            ).fit(inputs, targets)

    return run


def torch_levenberg_marquardt_classes(dtype):
    """torch-levenberg-marquardt with Cholesky and 10 attempts, as in its example of classes, on all rows.

    Its rate there, 0.05, is for mini-batches; with all rows in each step the package's default of 1 is quicker.
    """

    def run(contest, seed, watch):
        import torch_levenberg_marquardt as tlm

        X, y = contest.scaled
        inputs, targets = torch.tensor(X, dtype=dtype), torch.tensor(y)
        torch.manual_seed(seed)
        while True:
            watch.starts += 1
            hidden, output = (
                torch.nn.Linear(X.shape[1], contest.hidden),
                torch.nn.Linear(contest.hidden, contest.classes),
            )
            net = torch.nn.Sequential(hidden, torch.nn.Tanh(), output).to(dtype)
            module = tlm.training.LevenbergMarquardtModule(
                model=net,
                loss_fn=tlm.loss.CrossEntropyLoss(),
                learning_rate=1.0,
                attempts_per_step=10,
                solve_method="cholesky",
            )
            for _ in range(ITERATIONS):
                *_, stop, _ = module.training_step(inputs, targets)
                with watch.stopped(), torch.no_grad():
                    loss = log_loss(contest.y, torch.log_softmax(net(inputs).double(), 1).numpy())
                watch.see(loss)
                if stop or not np.isfinite(loss):
                    break

    return run


def torch_levenberg_marquardt(dtype):
    """torch-levenberg-marquardt as in its own example: batches of 1000, learning rate 1, QR, 10 attempts."""

    def run(contest, seed, watch):
        import torch_levenberg_marquardt as tlm

        X, y = (contest.X, contest.y) if contest.raw else contest.scaled
        variance = 1.0 if contest.raw else contest.y.var()
        inputs, targets = torch.tensor(X, dtype=dtype), torch.tensor(y, dtype=dtype)[:, None]
        torch.manual_seed(seed)
        while True:
            watch.starts += 1
            sizes = (inputs.shape[1], contest.hidden)
            net = torch.nn.Sequential(torch.nn.Linear(*sizes), torch.nn.Tanh(), torch.nn.Linear(sizes[1], 1)).to(dtype)
            module = tlm.training.LevenbergMarquardtModule(
                model=net, loss_fn=tlm.loss.MSELoss(), learning_rate=1.0, attempts_per_step=10, solve_method="qr"
            )
            loader = tlm.utils.FastDataLoader(
                torch.utils.data.TensorDataset(inputs, targets),
                batch_size=min(1000, len(X)),
                repeat=1,
                shuffle=True,
            )
            for _ in range(ITERATIONS):
                for batch in loader:
                    *_, stop, _ = module.training_step(*batch)
                    if stop:
                        break
                with watch.stopped(), torch.no_grad():
                    error = (net(inputs) - targets).double().square().mean()
                watch.see(error * variance)
                if stop:
                    break

    return run


def _jax(method):
    """Runner of a ``method(residuals, target)`` that returns jax functions ``begin(theta)`` and ``advance(carry, n)``.

    ``advance`` takes at most n steps, ends at the target or where the method ends, and returns the carry, half the sum
    of squares, the number of steps and whether the method has ended. Their compilation is timed apart.
    """

    compiled = {}

    def run(contest, seed, watch):
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", True)
        X, y = contest.scaled
        net = NumpyNet(X, y, contest.hidden)
        unit = 2 * contest.y.var() / len(y)  # from half the sum of squares to the mean square
        inputs, targets = jnp.asarray(X.T), jnp.asarray(y)

        def residuals(theta):
            cuts = np.cumsum([net.n_weights, net.hidden, net.hidden])
            first, bias, second, last = jnp.split(theta, cuts)
            return second @ jnp.tanh(first.reshape(net.hidden, -1) @ inputs + bias[:, None]) + last - targets

        with watch.stopped():
            if contest.name not in compiled:
                began = time.perf_counter()
                begin, advance = method(residuals, contest.target / unit)
                jax.block_until_ready(advance(begin(jnp.asarray(net.uniform(np.random.default_rng(0)))), 1))
                compiled[contest.name] = begin, advance, time.perf_counter() - began
        begin, advance, watch.compilation = compiled[contest.name]
        for theta in starts(contest, seed, watch, net, own=False):
            carry, done, ended = begin(jnp.asarray(theta)), 0, False
            while done < ITERATIONS and not ended:
                carry, half, steps, ended = advance(carry, 20)
                done += int(steps)
                watch.see(unit * float(half))

    return run


def optimistix(residuals, target):
    """``optimistix.LevenbergMarquardt`` with its defaults (QR, forward mode), step by step."""
    import equinox as eqx
    import jax
    import optimistix as optx

    solver = optx.LevenbergMarquardt(rtol=1e-15, atol=1e-15)

    def function(theta, args):
        return residuals(theta), None

    def step(y, state):
        y, state, _ = solver.step(function, y, None, {}, state, frozenset())
        return y, state

    @eqx.filter_jit
    def begin(theta):
        struct = jax.eval_shape(residuals, theta)
        return step(theta, solver.init(function, theta, None, {}, struct, None, frozenset()))

    @eqx.filter_jit
    def advance(carry, n):
        dynamic, static = eqx.partition(carry, eqx.is_array)

        def ended(state):
            done, result = solver.terminate(function, None, None, {}, state, frozenset())
            return done | (result != optx.RESULTS.successful)

        def half(state):
            return state.f_info.as_min()

        def proceed(loop):
            _, state = eqx.combine(loop[1], static)
            return (loop[0] < n) & (half(state) > target) & ~ended(state)

        def body(loop):
            after, _ = eqx.partition(step(*eqx.combine(loop[1], static)), eqx.is_array)
            return loop[0] + 1, after

        steps, dynamic = jax.lax.while_loop(proceed, body, (0, dynamic))
        carry = eqx.combine(dynamic, static)
        return carry, half(carry[1]), steps, ended(carry[1])

    return begin, advance


def jaxopt(residuals, target):
    """``jaxopt.LevenbergMarquardt`` with the Jacobian stored and Cholesky factors, the quickest for few parameters."""
    import jax
    from jaxopt import LevenbergMarquardt

    solver = LevenbergMarquardt(residuals, solver="cholesky", materialize_jac=True)

    @jax.jit
    def begin(theta):
        return theta, solver.init_state(theta)

    @jax.jit
    def advance(carry, n):
        def proceed(loop):
            return (loop[0] < n) & (loop[2].value > target) & (loop[2].error > 1e-15)

        def body(loop):
            return loop[0] + 1, *solver.update(*loop[1:])

        steps, theta, state = jax.lax.while_loop(proceed, body, (0, *carry))
        return (theta, state), state.value, steps, ~(state.error > 1e-15)

    return begin, advance


#: name in the table: runner, module it needs
RIVALS = {
    "LMRegressor(alpha=0)": (sklm(), "sklm"),
    "LMRegressor(alpha=0, n_init=1, growing=False)": (sklm(n_init=1, growing=False), "sklm"),
    "torch-levenberg-marquardt, float64": (torch_levenberg_marquardt(torch.float64), "torch_levenberg_marquardt"),
    "torch-levenberg-marquardt, float32": (torch_levenberg_marquardt(torch.float32), "torch_levenberg_marquardt"),
    "scipy lm (MINPACK)": (scipy("lm"), "scipy"),
    "scipy lm (MINPACK), starts of sklm": (scipy("lm", own=True), "scipy"),
    "scipy trf": (scipy("trf"), "scipy"),
    "optimistix": (_jax(optimistix), "optimistix"),
    "jaxopt": (_jax(jaxopt), "jaxopt"),
    "MLPRegressor, lbfgs": (mlp("lbfgs"), "sklearn"),
    "MLPRegressor, adam": (mlp("adam"), "sklearn"),
}


#: the same for classes
CLASS_RIVALS = {
    "LMClassifier(alpha=0)": (sklm_classes(), "sklm"),
    "LMClassifier(alpha=0, n_init=1)": (sklm_classes(n_init=1), "sklm"),
    "torch-levenberg-marquardt, classes, float64": (
        torch_levenberg_marquardt_classes(torch.float64),
        "torch_levenberg_marquardt",
    ),
    "torch-levenberg-marquardt, classes, float32": (
        torch_levenberg_marquardt_classes(torch.float32),
        "torch_levenberg_marquardt",
    ),
    "MLPClassifier, lbfgs": (mlp("lbfgs"), "sklearn"),
    "MLPClassifier, adam": (mlp("adam"), "sklearn"),
}
EVERYBODY = {**RIVALS, **CLASS_RIVALS}


def rivals_of(contest):
    """The names of those that take part in a contest."""
    return list(CLASS_RIVALS if contest.classes else RIVALS)


def installed(name):
    """Whether the package of a rival can be imported."""
    return importlib.util.find_spec(EVERYBODY[name][1]) is not None
