"""Tables of many columns, of which few or all matter: the defaults against other estimators.

    OMP_NUM_THREADS=1 python tests/benchmarks/wide_tables.py            # regression
    OMP_NUM_THREADS=1 python tests/benchmarks/wide_tables.py --classes

Columns are standard normal. Targets have deviation one and noise of deviation 0.3; classes are equal parts of their
range. Shown is what is left of the variance of the function on 2000 new rows, or the log-loss on new rows with noise,
and seconds of the processor. Ridge and logistic regression choose their penalty by cross-validation; columns of all
others are standard already.
"""

import argparse
import time
import warnings

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegressionCV, RidgeCV
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier, MLPRegressor

from sklm import LMClassifier, LMRegressor

NOISE = 0.3
FUNCTIONS = {
    "x1 x2 + x3": lambda X, rng: X[:, 0] * X[:, 1] + X[:, 2],
    "sin 2 x1 + x2 x3 + abs x4": lambda X, rng: np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + abs(X[:, 3]),
    "linear in all": lambda X, rng: X @ rng.normal(size=X.shape[1]),
    "8 tanh of all": lambda X, rng: (
        np.tanh(X @ rng.normal(size=(X.shape[1], 8)) * 2 / np.sqrt(X.shape[1])) @ rng.normal(size=8)
    ),
    "sin 2 x of ten": lambda X, rng: np.sin(2 * X[:, :10]) @ rng.normal(size=10),
}
REGRESSION = [(1000, 100), (2000, 60), (5000, 60)]
CLASSES = [(600, 60, 2), (2000, 60, 2), (600, 60, 4), (2000, 60, 3)]


def data(function, n_samples, n_columns):
    """X, noisy targets, X and exact targets of new rows."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_samples + 2000, n_columns))
    f = FUNCTIONS[function](X, rng)
    f = (f - f[n_samples:].mean()) / f[n_samples:].std()
    return X[:n_samples], f[:n_samples] + NOISE * rng.normal(size=n_samples), X[n_samples:], f[n_samples:]


def regression(function, size):
    X, y, X_new, f_new = data(function, *size)
    mlp = MLPRegressor(max_iter=1000, early_stopping=True, random_state=0)
    for model in (
        LMRegressor(random_state=0),
        mlp,
        HistGradientBoostingRegressor(random_state=0),
        RidgeCV(np.logspace(-1, 4, 11)),
    ):
        began = time.process_time()
        model.fit(X, y)
        yield np.mean((model.predict(X_new) - f_new) ** 2) / f_new.var(), time.process_time() - began, model


def classes(function, size):
    *shape, n_classes = size
    X, y, X_new, f_new = data(function, *shape)
    limits = np.quantile(y, np.linspace(0, 1, n_classes + 1)[1:-1])
    labels, new = (
        np.digitize(v, limits) for v in (y, f_new + NOISE * np.random.default_rng(9).normal(size=len(f_new)))
    )
    mlp = MLPClassifier(max_iter=1000, early_stopping=True, random_state=0)
    logistic = LogisticRegressionCV(Cs=[1e-3, 1e-2, 0.1, 1, 10], max_iter=1000, scoring="neg_log_loss")
    for model in (LMClassifier(random_state=0), mlp, HistGradientBoostingClassifier(random_state=0), logistic):
        began = time.process_time()
        model.fit(X, labels)
        yield log_loss(new, model.predict_proba(X_new)), time.process_time() - began, model


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--classes", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    compare, sizes = (classes, CLASSES) if args.classes else (regression, REGRESSION)
    linear = "logistic regression" if args.classes else "ridge"
    print(
        f"| rows x columns | function | sklm (units) | MLP, early stopping | boosted trees | {linear} |\n"
        + "|---" * 6
        + "|"
    )
    for size in sizes:
        for function in FUNCTIONS:
            results = list(compare(function, size))
            units = results[0][2].architecture_.hidden_layer_sizes
            cells = [f"{error:.2g}, {seconds:.1f} s" for error, seconds, _ in results]
            cells[0] += f" ({', '.join(map(str, units))})"
            print("| " + " | ".join([" x ".join(map(str, size)), function, *cells]) + " |", flush=True)
