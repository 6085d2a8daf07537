"""Seconds of many fits at once against one fit after the other.

python tests/benchmarks/many_fits.py [small] [rows ...]

(a) A grid search of 20 candidates on 5 folds (damping x alpha x batch size) by ``LMGridSearchCV`` and by scikit-learn's
``GridSearchCV``, in one process and in two; with one start, and without (b), where numbers of rows are given; (b) curve
fits of 200 rows each, by ``fit_many`` and by a joblib loop.
"""

import sys
import time
import warnings

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.datasets import make_friedman1
from sklearn.model_selection import GridSearchCV

from sklm import LMGridSearchCV, LMRegressor, fit_many

SMALL = "small" in sys.argv[1:]
ROWS = [int(number) for number in sys.argv[1:] if number.isdigit()]
REPEATS = 1 if SMALL or ROWS else 3


def timed(function):
    began = time.perf_counter()
    result = function()
    return time.perf_counter() - began, result


def medians(functions):
    """Median seconds of each function, interleaved, and what each returned last."""
    seconds, results = {name: [] for name in functions}, {}
    for _ in range(REPEATS):
        for name, function in functions.items():
            took, results[name] = timed(function)
            seconds[name].append(took)
    return {name: float(np.median(values)) for name, values in seconds.items()}, results


def quiet(function, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments)


def start_workers():
    """Importing torch in a worker process takes seconds, which the first parallel call would pay."""
    Parallel(n_jobs=2)(delayed(quiet)(clone(LMRegressor(2, max_iter=2)).fit, *make_friedman1(50)) for _ in range(4))


def search(n_rows, n_init):
    X, y = make_friedman1(n_rows, noise=1.0, random_state=0)
    estimator = LMRegressor(5, n_init=n_init, max_iter=60, random_state=0)
    grid = {
        "damping": [1e-2, 1.0] if SMALL else [1e-3, 1e-2, 1e-1, 1.0, 10.0],
        "alpha": [1e-2] if SMALL else [1e-3, 1e-2],
        "batch_size": [None, max(50, n_rows // 5)],
    }
    seconds, found = medians(
        {
            "together": lambda: LMGridSearchCV(estimator, grid, refit=False).fit(X, y),
            "together, 2 jobs": lambda: LMGridSearchCV(estimator, grid, refit=False, n_jobs=2).fit(X, y),
            "one by one": lambda: GridSearchCV(estimator, grid, refit=False).fit(X, y),
            "one by one, 2 jobs": lambda: GridSearchCV(estimator, grid, refit=False, n_jobs=2).fit(X, y),
        }
    )
    scores = {name: result.cv_results_["mean_test_score"] for name, result in found.items()}
    worst = np.abs(scores["together"] - scores["one by one"]).max()
    same = found["together"].best_params_ == found["one by one"].best_params_
    batched = found["together"].cv_results_["batched"].mean()
    return (
        seconds,
        f"{batched:.0%} batched, largest difference of scores {worst:.1e}, {'same' if same else 'OTHER'} best",
    )


def curves(n_fits, hidden, n_init):
    rng = np.random.default_rng(0)
    x = np.linspace(-1, 1, 200)[:, None]
    ys = [np.sin((2 + 3 * k / n_fits) * x[:, 0] + k) + 0.05 * rng.normal(size=200) for k in range(n_fits)]
    estimator = LMRegressor(hidden, alpha=1e-4, n_init=n_init, random_state=0)
    seconds, found = medians(
        {
            "together": lambda: fit_many(estimator, x, ys),
            "together, 2 jobs": lambda: fit_many(estimator, x, ys, n_jobs=2),
            "one by one": lambda: [clone(estimator).fit(x, y) for y in ys],
            "one by one, 2 jobs": lambda: Parallel(n_jobs=2)(delayed(quiet)(clone(estimator).fit, x, y) for y in ys),
        }
    )
    pairs = zip(found["together"], found["one by one"], strict=True)
    worst = max(np.abs(a.predict(x) - b.predict(x)).max() for a, b in pairs)
    return seconds, f"largest difference of predictions {worst:.1e}"


def line(what, seconds, remark):
    values = " | ".join(f"{seconds[name]:.2f}" for name in seconds)
    ratios = (
        f"{seconds['one by one'] / seconds['together']:.1f}",
        f"{seconds['one by one, 2 jobs'] / seconds['together, 2 jobs']:.1f}",
    )
    print(f"| {what} | {values} | {ratios[0]} | {ratios[1]} | {remark} |", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    start_workers()
    print("| what | together | 2 jobs | one by one | 2 jobs | ratio, 1 job | ratio, 2 jobs | check |\n|" + "---|" * 8)
    for rows in ROWS or ((100, 500) if SMALL else (100, 500, 1000, 10_000)):
        for starts in (1,) if SMALL or ROWS else (1, "auto"):
            line(f"search, {rows} rows, n_init={starts}", *search(rows, starts))
    number = 40 if SMALL else 1000
    for units, starts in () if ROWS else ((5, 1), (20, 1)) if SMALL else ((5, 1), (20, 1), (20, 4)):
        line(f"{number} curves, {units} units, n_init={starts}", *curves(number, units, starts))
