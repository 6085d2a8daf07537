"""Milliseconds of an iteration of a 1-20-1 tanh net (61 parameters) on sinc(10 x), by rows and starts, and of fits.

python tests/benchmarks/latency.py
"""

import time
import warnings

import numpy as np
from sklearn.neural_network import MLPRegressor

from sklm import LMRegressor


def fit(n_samples, **options):
    X = np.linspace(-1, 1, n_samples)[:, None]
    y = np.sinc(10 * X[:, 0])
    began = time.perf_counter()
    model = LMRegressor(alpha=0.0, random_state=0, growing=False, **options).fit(X, y)
    return time.perf_counter() - began, model


def per_iteration(n_samples, **options):
    """Least of five: the slope between 10 and 110 iterations."""
    slopes = []
    for _ in range(5):
        long, short = (fit(n_samples, max_iter=n, tol=0.0, **options)[0] for n in (110, 10))
        slopes.append((long - short) / 100)
    return 1e3 * min(slopes)


def fastest(make):
    """Least seconds of five fits, and the last of these."""
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        model = make()
        seconds.append(time.perf_counter() - began)
    return min(seconds), model


def to_the_error_of_lbfgs(seeds):
    """Medians and ranges, over seeds, of milliseconds and mean squared errors of 200 rows."""
    X = np.linspace(-1, 1, 200)[:, None]
    y = np.sinc(10 * X[:, 0])
    found = {}
    for seed in seeds:
        net = {"hidden_layer_sizes": 20, "activation": "tanh", "random_state": seed}
        rival = fastest(lambda net=net: MLPRegressor(solver="lbfgs", max_iter=5000, **net).fit(X, y))
        aim = np.mean((rival[1].predict(X) - y) ** 2) / 200  # the loss of a hundredth of its error
        ours = {
            "four starts, 100 iterations": {"max_iter": 100},
            "one start, 100 iterations": {"max_iter": 100, "n_init": 1},
            "one start, to a hundredth of the error of L-BFGS": {"target_loss": aim, "n_init": 1},
        }
        rows = {"MLPRegressor, L-BFGS, to its own end": rival}
        for name, options in ours.items():
            rows[name] = fastest(lambda net=net, options=options: LMRegressor(alpha=0.0, **net, **options).fit(X, y))
        for name, (seconds, model) in rows.items():
            found.setdefault(name, []).append((1e3 * seconds, np.mean((model.predict(X) - y) ** 2)))
    print("\n| 200 rows | ms | mean squared error |\n|---|---|---|")
    for name, each in found.items():
        ms, errors = np.transpose(each)
        print(
            f"| {name} | {np.median(ms):.0f} ({min(ms):.0f} to {max(ms):.0f}) "
            f"| {np.median(errors):.1e} ({min(errors):.1e} to {max(errors):.1e}) |"
        )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    fit(200, max_iter=5)
    print("| rows | starts | plain, ms | geodesic, ms |\n|---|---|---|---|")
    for n_samples, n_init in ((200, 1), (200, 4), (1000, 1), (1000, 4), (20000, 1)):
        plain = per_iteration(n_samples, n_init=n_init, acceleration=None)
        print(f"| {n_samples} | {n_init} | {plain:.2f} | {per_iteration(n_samples, n_init=n_init):.2f} |", flush=True)
    to_the_error_of_lbfgs(range(10))
