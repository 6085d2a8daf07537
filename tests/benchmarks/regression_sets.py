"""Test R^2 and time on small regression tables, 5-fold, against scikit-learn's regressors.

Reads UCI-style tables (last column the target) from a folder with NAME/data.csv.gz in it, such as the sets of the
uci_datasets package (MIT), and scikit-learn's diabetes data:

    SKLM_TABLES=path/to/folder python tests/benchmarks/regression_sets.py

Every model is tuned inside each training fold by 3-fold GridSearchCV where it has a penalty to tune, on scaled X and
y; time is that of the whole search and refit. The folds are the same for all.
"""

import argparse
import gzip
import os
import pathlib
import time
import warnings

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklm import LMRegressor

NAMES = ("servo", "concreteslump", "machine", "autompg", "diabetes", "stock", "pendulum", "airfoil")
ALPHAS = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]


def load(name):
    if name == "diabetes":
        return load_diabetes(return_X_y=True)
    with gzip.open(pathlib.Path(os.environ["SKLM_TABLES"]) / name / "data.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    return table[:, :-1], table[:, -1]


def scaled(model):
    return TransformedTargetRegressor(make_pipeline(StandardScaler(), model), transformer=StandardScaler())


def mlp(solver):
    grid = {"regressor__mlpregressor__alpha": [1e-4, 1e-2, 1.0, 10.0]}
    shapes = [
        {"regressor__mlpregressor__hidden_layer_sizes": [(100,)], "regressor__mlpregressor__activation": ["relu"]},
        {"regressor__mlpregressor__hidden_layer_sizes": [(20,)], "regressor__mlpregressor__activation": ["tanh"]},
    ]
    model = scaled(MLPRegressor(solver=solver, max_iter=2000, random_state=0))
    return GridSearchCV(model, [{**grid, **shape} for shape in shapes], cv=3)


def models(n_features):
    kernel = ConstantKernel(1.0, (1e-3, 1e4)) * RBF(np.ones(n_features), (1e-2, 1e4)) + WhiteKernel(0.1, (1e-8, 10))
    gaussian_process = GaussianProcessRegressor(kernel, random_state=0, n_restarts_optimizer=1)
    return {
        "LMRegressor()": LMRegressor(random_state=0),
        "LMRegressor, searched": GridSearchCV(LMRegressor(random_state=0, max_iter=300), {"alpha": ALPHAS}, cv=3),
        "MLP lbfgs": mlp("lbfgs"),
        "MLP adam": mlp("adam"),
        "Gaussian process": scaled(gaussian_process),
        "HistGradientBoosting": HistGradientBoostingRegressor(random_state=0),
    }


def evaluate(model, X, y):
    scores, seconds = [], 0.0
    for train, test in KFold(5, shuffle=True, random_state=0).split(X):
        began = time.perf_counter()
        model.fit(X[train], y[train])
        seconds += time.perf_counter() - began
        scores.append(r2_score(y[test], model.predict(X[test])))
    return np.mean(scores), seconds / 5


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--names", nargs="+", default=NAMES)
    parser.add_argument("--only", nargs="+", default=None, help="names of models")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    chosen = args.only or list(models(1))
    print("| data | rows x columns | " + " | ".join(chosen) + " |")
    print("|---|---|" + "---|" * len(chosen))
    for name in args.names:
        X, y = load(name)
        cells = []
        for label in chosen:
            score, seconds = evaluate(models(X.shape[1])[label], X, y)
            cells.append(f"{score:.4f} ({seconds:.1f} s)")
        print(f"| {name} | {X.shape[0]} x {X.shape[1]} | " + " | ".join(cells) + " |", flush=True)
