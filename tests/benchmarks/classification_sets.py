"""Accuracy and log-loss on small classification tables, 5-fold, against scikit-learn's classifiers.

Reads KEEL-style tables (NAME.dat.gz, last column the class) from a folder, and scikit-learn's own sets:

    SKLM_CLASSES=path/to/folder python tests/benchmarks/classification_sets.py

``LMClassifier`` runs with default options and with its penalty searched; every rival with a penalty is tuned inside
each training fold by 3-fold GridSearchCV on the log-loss, on scaled X. Time is that of the whole search and refit. The
folds are the same for all.
"""

import argparse
import gzip
import os
import pathlib
import time
import warnings

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklm import LMClassifier

OWN = {"wine": load_wine, "breast cancer": load_breast_cancer, "digits": load_digits}
KEEL = ("ionosphere", "vehicle", "banana", "phoneme", "segment", "satimage")


def load(name):
    if name in OWN:
        return OWN[name](return_X_y=True)
    with gzip.open(pathlib.Path(os.environ["SKLM_CLASSES"]) / f"{name}.dat.gz", "rt") as file:
        rows = [[cell.strip() for cell in line.split(",")] for line in file if line.strip() and line[0] != "@"]
    table = np.array(rows, dtype=object)
    return table[:, :-1].astype(float), table[:, -1].astype(str)


def searched(model, name, values):
    return GridSearchCV(make_pipeline(StandardScaler(), model), {f"{name}": values}, cv=3, scoring="neg_log_loss")


def models(n_samples):
    penalties = [1e-4, 1e-2, 1.0, 10.0]
    mlp = {"mlpclassifier__alpha": penalties, "mlpclassifier__hidden_layer_sizes": [(20,), (100,)]}
    return {
        "LMClassifier": LMClassifier(random_state=0),
        "LMClassifier, alpha searched": GridSearchCV(
            LMClassifier(random_state=0),
            {"alpha": [c / n_samples for c in (0.3, 1, 3, 10)]},
            cv=3,
            scoring="neg_log_loss",
        ),
        **{
            f"MLP {solver}": GridSearchCV(
                make_pipeline(StandardScaler(), MLPClassifier(solver=solver, max_iter=500, random_state=0)),
                mlp,
                cv=3,
                scoring="neg_log_loss",
            )
            for solver in ("adam", "lbfgs")
        },
        "logistic regression": searched(
            LogisticRegression(max_iter=2000), "logisticregression__C", [0.01, 0.1, 1.0, 10.0, 100.0]
        ),
        "HistGradientBoosting": HistGradientBoostingClassifier(random_state=0),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--sets", nargs="+", default=[*OWN, *KEEL])
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    names = list(models(1))
    print("| data | rows x columns, classes | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 2), flush=True)
    for data in args.sets:
        X, y = load(data)
        cells = []
        for name in names:
            accuracy, loss, seconds = [], [], 0.0
            for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(X, y):
                model = models(len(train))[name]
                began = time.perf_counter()
                model.fit(X[train], y[train])
                seconds += time.perf_counter() - began
                probability = model.predict_proba(X[test])
                accuracy.append(np.mean(model.classes_[probability.argmax(axis=1)] == y[test]))
                loss.append(log_loss(y[test], probability, labels=model.classes_))
            cells.append(f"{np.mean(accuracy):.3f}, {np.mean(loss):.3f} ({seconds / 5:.1f} s)")
        print(f"| {data} | {len(X)} x {X.shape[1]}, {len(set(y))} | " + " | ".join(cells) + " |", flush=True)
