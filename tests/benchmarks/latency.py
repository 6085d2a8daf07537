"""Milliseconds of an iteration of a 1-20-1 tanh net (61 parameters) on sinc(10 x), by rows and starts.

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


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    fit(200, max_iter=5)
    print("| rows | starts | plain, ms | geodesic, ms |\n|---|---|---|---|")
    for n_samples, n_init in ((200, 1), (200, 4), (1000, 1), (1000, 4), (20000, 1)):
        plain = per_iteration(n_samples, n_init=n_init, acceleration=None)
        print(f"| {n_samples} | {n_init} | {plain:.2f} | {per_iteration(n_samples, n_init=n_init):.2f} |", flush=True)
    X = np.linspace(-1, 1, 200)[:, None]
    y = np.sinc(10 * X[:, 0])
    seconds, model = fit(200, max_iter=100)
    began = time.perf_counter()
    rival = MLPRegressor(hidden_layer_sizes=20, activation="tanh", solver="lbfgs", max_iter=5000, random_state=0).fit(
        X, y
    )
    other = time.perf_counter() - began
    print(
        f"fit of 200 rows: {1e3 * seconds:.0f} ms, MSE {2 * model.loss_:.1e} (4 starts, 100 iterations); "
        f"MLPRegressor lbfgs {1e3 * other:.0f} ms, MSE {2 * rival.loss_:.1e}"
    )
