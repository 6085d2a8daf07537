"""Geodesic acceleration on and off, and the other options of the step, on eight problems made from formulas.

    python tests/benchmarks/acceleration.py            # geodesic acceleration: accuracy and time
    python tests/benchmarks/acceleration.py --options  # damping, strategies, scalings, starts as well

Every cell is the median over 16 starts of the mean squared error of standardised y (1 - R^2 on the training rows) after
300 iterations. Starts are run one by one, so that the time is that of single fits.
"""

import argparse
import time
import warnings

import numpy as np

from sklm import LMRegressor

N_STARTS, N_ITER = 16, 300


def franke(x, y):
    return (
        0.75 * np.exp(-((9 * x - 2) ** 2 + (9 * y - 2) ** 2) / 4)
        + 0.75 * np.exp(-((9 * x + 1) ** 2) / 49 - (9 * y + 1) / 10)
        + 0.5 * np.exp(-((9 * x - 7) ** 2 + (9 * y - 3) ** 2) / 4)
        - 0.2 * np.exp(-((9 * x - 4) ** 2) - (9 * y - 7) ** 2)
    )


def branin(x, y):
    curve = y - 5.1 * x**2 / (4 * np.pi**2) + 5 * x / np.pi - 6
    return curve**2 + 10 * (1 - 1 / (8 * np.pi)) * np.cos(x) + 10


def gramacy_lee(x):
    return np.sin(10 * np.pi * x) / (2 * x) + (x - 1) ** 4


def forrester(x):
    return (6 * x - 2) ** 2 * np.sin(12 * x - 4)


def otl_circuit(rb1, rb2, rf, rc1, rc2, beta):
    vb1 = 12 * rb2 / (rb1 + rb2)
    load = beta * (rc2 + 9)
    return (vb1 + 0.74) * load / (load + rf) + 11.35 * rf / (load + rf) + 0.74 * rf * load / ((load + rf) * rc1)


def borehole(rw, r, tu, hu, tl, hl, length, kw):
    log = np.log(r / rw)
    return 2 * np.pi * tu * (hu - hl) / (log * (1 + 2 * length * tu / (log * rw**2 * kw) + tu / tl))


def sinc(x):
    return np.sinc(10 * x)


#: name: function, lower bounds, upper bounds, rows, hidden units, noise (uniform on [0, 0.2))
#: formulas of Forrester, Sobester & Keane (2008) and of Surjanovic & Bingham's library of simulation experiments
PROBLEMS = {
    "sinc": (sinc, [-1], [1], 1000, 20, False),
    "Franke": (franke, [0, 0], [1, 1], 1000, 20, False),
    "Branin": (branin, [-5, 0], [10, 15], 1000, 20, False),
    "Gramacy-Lee": (gramacy_lee, [0.5], [2.5], 200, 20, False),
    "Forrester": (forrester, [0], [1], 200, 10, False),
    "OTL circuit": (otl_circuit, [50, 25, 0.5, 1.2, 0.25, 50], [150, 70, 3, 2.5, 1.2, 300], 1000, 20, False),
    "borehole": (
        borehole,
        [0.05, 100, 63070, 990, 63.1, 700, 1120, 9855],
        [0.15, 50000, 115600, 1110, 116, 820, 1680, 12045],
        1000,
        20,
        False,
    ),
    "noisy sine": (np.sin, [-10], [10], 500, 10, True),
}


def data(name):
    function, low, high, n_samples, hidden, noisy = PROBLEMS[name]
    rng = np.random.default_rng(0)
    X = rng.uniform(low, high, (n_samples, len(low)))
    y = function(*X.T)
    return X, y + (0.2 * rng.uniform(size=n_samples) if noisy else 0), hidden


def run(name, **options):
    """Median error over starts, and seconds of one fit."""
    X, y, hidden = data(name)
    errors, began = [], time.perf_counter()
    for seed in range(N_STARTS):
        model = LMRegressor(
            hidden, random_state=seed, n_init=1, max_iter=N_ITER, alpha=0.0, tol=0.0, growing=False, **options
        ).fit(X, y)
        errors.append(2 * model.loss_ / np.var(y))
    return np.median(errors), (time.perf_counter() - began) / N_STARTS


VARIANTS = {
    "default": {},
    "damping=1e-3": {"damping": 1e-3},
    "damping=1": {"damping": 1.0},
    "multiplicative": {"damping_strategy": "multiplicative"},
    "delayed gratification": {"damping_strategy": "delayed_gratification"},
    "marquardt": {"damping_scaling": "marquardt"},
    "more": {"damping_scaling": "more"},
    "init=data": {"init": "data"},
    "init=normal": {"init": "normal"},
    "init=glorot": {"init": "glorot"},
    "init=uniform": {"init": "uniform"},
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--options", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.options:
        print("| option | " + " | ".join(PROBLEMS) + " |\n|---|" + "---|" * len(PROBLEMS))
        for label, options in VARIANTS.items():
            cells = [f"{run(name, **options)[0]:.1e}" for name in PROBLEMS]
            print(f"| {label} | {' | '.join(cells)} |", flush=True)
    else:
        print("| problem | plain: error | s | geodesic: error | s | error ratio | time ratio |")
        print("|---|---|---|---|---|---|---|")
        for name in PROBLEMS:
            (plain, t0), (geodesic, t1) = run(name, acceleration=None), run(name)
            print(
                f"| {name} | {plain:.1e} | {t0:.2f} | {geodesic:.1e} | {t1:.2f} | {plain / geodesic:.1f} "
                f"| {t1 / t0:.2f} |",
                flush=True,
            )
