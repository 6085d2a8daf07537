"""Tables with columns that do not matter: errors on new rows with and without `relevance`, and those of others.

    python tests/benchmarks/relevance.py

Generated tables, which need no data. Errors are root mean squares against the function itself, over its deviation;
of classes the log-loss. Everybody has its defaults, networks and the Gaussian process on scaled X and y.
"""

import argparse
import time
import warnings

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import make_classification, make_friedman1, make_friedman2, make_friedman3
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklm import LMClassifier, LMRegressor

N_NEW = 4000


def friedman(function, n_samples, noise, seed, **options):
    X, y = function(n_samples + N_NEW, noise=0.0, random_state=seed, **options)
    noisy = y[:n_samples] + noise * y.std() * np.random.default_rng(seed).standard_normal(n_samples)
    return X[:n_samples], noisy, X[n_samples:], y[n_samples:]


def formula(function, n_samples, n_columns, noise, seed):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (n_samples + N_NEW, n_columns))
    y = function(X)
    return X[:n_samples], y[:n_samples] + noise * y.std() * rng.standard_normal(n_samples), X[n_samples:], y[n_samples:]


def surface(X):
    return np.sin(3 * X[:, 0]) * np.exp(X[:, 1]) + X[:, 2] * X[:, 3]


def additive(X):
    return sum(np.sin((column % 3 + 1) * X[:, column]) for column in range(X.shape[1]))


def line(X):
    return X[:, :3] @ [3.0, 2.0, 1.0]


def rotated(X):
    return np.tanh(2 * X @ np.linspace(-1, 1, X.shape[1])) + (X @ np.cos(np.arange(X.shape[1]))) ** 2 / 4


REGRESSION = {
    "Friedman 1, 100 rows, 5 of 10 columns, noise 0.2": lambda s: friedman(make_friedman1, 100, 0.2, s),
    "Friedman 1, 500 rows": lambda s: friedman(make_friedman1, 500, 0.2, s),
    "Friedman 1, 200 rows, no noise": lambda s: friedman(make_friedman1, 200, 0.0, s),
    "Friedman 2, 200 rows, 4 columns": lambda s: friedman(make_friedman2, 200, 0.2, s),
    "Friedman 3, 200 rows, 4 columns": lambda s: friedman(make_friedman3, 200, 0.2, s),
    "surface, 300 rows, 4 of 10 columns": lambda s: formula(surface, 300, 10, 0.2, s),
    "surface, 200 rows, 4 columns": lambda s: formula(surface, 200, 4, 0.2, s),
    "line, 100 rows, 3 of 10 columns": lambda s: formula(line, 100, 10, 0.3, s),
    "sum of sines, 200 rows, 6 columns": lambda s: formula(additive, 200, 6, 0.2, s),
    "two directions, 200 rows, 6 columns": lambda s: formula(rotated, 200, 6, 0.2, s),
}


def drawn(n_samples, n_columns, seed, **options):
    X, y = make_classification(n_samples + N_NEW, n_columns, flip_y=0.05, random_state=seed, **options)
    return X[:n_samples], y[:n_samples], X[n_samples:], y[n_samples:]


def logistic(function, n_samples, n_columns, seed):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (n_samples + N_NEW, n_columns))
    y = (rng.random(len(X)) < 1 / (1 + np.exp(-function(X)))).astype(int)
    return X[:n_samples], y[:n_samples], X[n_samples:], y[n_samples:]


def saddle(X):
    return 4 * np.sin(3 * X[:, 0]) + 8 * X[:, 1] * X[:, 2]


def ring(X):
    return 6 * (X[:, 0] ** 2 + X[:, 1] ** 2 - 0.7)


CLASSES = {
    "2 classes, 200 rows, 4 of 10 columns": lambda s: drawn(200, 10, s, n_informative=4, n_redundant=2),
    "2 classes, 100 rows, 6 of 50 columns": lambda s: drawn(100, 50, s, n_informative=6, n_redundant=0),
    "2 classes, 500 rows, 6 of 50 columns": lambda s: drawn(500, 50, s, n_informative=6, n_redundant=0),
    "3 classes, 400 rows, 5 of 20 columns": lambda s: drawn(400, 20, s, n_informative=5, n_classes=3),
    "3 classes, 1000 rows, 5 of 20 columns": lambda s: drawn(1000, 20, s, n_informative=5, n_classes=3),
    "logistic saddle, 300 rows, 3 of 8 columns": lambda s: logistic(saddle, 300, 8, s),
    "logistic ring, 300 rows, 2 of 4 columns": lambda s: logistic(ring, 300, 4, s),
    "logistic ring, 300 rows, 2 columns": lambda s: logistic(ring, 300, 2, s),
}


def regressors(n_columns):
    kernel = ConstantKernel(1.0, (1e-3, 1e4)) * RBF(np.ones(n_columns), (1e-2, 1e4)) + WhiteKernel(0.1, (1e-10, 10))

    def scaled(model):
        return TransformedTargetRegressor(make_pipeline(StandardScaler(), model), transformer=StandardScaler())

    return {
        "relevance=None": LMRegressor(relevance=None, random_state=0),
        "LMRegressor()": LMRegressor(random_state=0),
        "Gaussian process": scaled(GaussianProcessRegressor(kernel, n_restarts_optimizer=1, random_state=0)),
        "MLPRegressor, adam": scaled(MLPRegressor(random_state=0, max_iter=2000)),
        "MLPRegressor, lbfgs": scaled(MLPRegressor(solver="lbfgs", random_state=0, max_iter=2000)),
        "HistGradientBoosting": HistGradientBoostingRegressor(random_state=0),
    }


def classifiers(n_columns):
    return {
        "relevance=None": LMClassifier(relevance=None, random_state=0),
        "LMClassifier()": LMClassifier(random_state=0),
        "MLPClassifier, adam": make_pipeline(StandardScaler(), MLPClassifier(random_state=0, max_iter=2000)),
        "MLPClassifier, lbfgs": make_pipeline(
            StandardScaler(), MLPClassifier(solver="lbfgs", random_state=0, max_iter=2000)
        ),
        "LogisticRegression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        "HistGradientBoosting": HistGradientBoostingClassifier(random_state=0),
    }


def compare(tables, models, measure, seeds):
    labels = list(models(2))
    print("| table | " + " | ".join(labels) + " |\n|---|" + "---|" * len(labels))
    ratios = []
    for name, make in tables.items():
        errors, seconds = np.empty((seeds, len(labels))), np.empty((seeds, len(labels)))
        for seed in range(seeds):
            X, y, X_new, y_new = make(100 + seed)
            for column, model in enumerate(models(X.shape[1]).values()):
                began = time.process_time()
                model.fit(X, y)
                seconds[seed, column] = time.process_time() - began
                errors[seed, column] = measure(model, X_new, y_new)
        mean = np.exp(np.log(errors).mean(0))
        ratios.append(np.log(mean / mean[0]))
        cells = [f"{error:.3g} ({s:.1f} s)" for error, s in zip(mean, seconds.mean(0), strict=True)]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print("| geometric mean of the ratios | " + " | ".join(f"{r:.2f}" for r in np.exp(np.mean(ratios, 0))) + " |")


def relative_error(model, X, y):
    return np.sqrt(np.mean((model.predict(X) - y) ** 2)) / y.std()


def loss_of_labels(model, X, y):
    return log_loss(y, model.predict_proba(X))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    compare(REGRESSION, regressors, relative_error, args.seeds)
    print()
    compare(CLASSES, classifiers, loss_of_labels, args.seeds)
