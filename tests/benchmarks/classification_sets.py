"""Accuracy and log-loss on small classification tables, 5-fold, against scikit-learn's classifiers.

Reads KEEL-style tables (NAME.dat.gz, last column the class) from a folder, and scikit-learn's own sets:

    SKLM_CLASSES=path/to/folder python tests/benchmarks/classification_sets.py

``LMClassifier`` runs with default options, with ``alpha`` one over the number of rows, with ``alpha='cv'``, and with
its penalty and units searched; every rival with a penalty is tuned, ``MLPClassifier`` also as it is, on scaled X. The
searches are 3-fold inside each training fold, scored by the log-loss, on scaled X. Those of ``LMClassifier`` and
``MLPClassifier`` have the same fourteen candidates: seven penalties, and 20 or 100 relu units; that of ``LMClassifier``
draws the curvature of several classes. Time is processor time of the whole search and refit. The folds are the same for
all. ``--models`` runs some of the columns, ``--folds`` the first few of the five folds; of sets with more than
``--rows`` rows, so many take part, drawn at random.
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
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklm import LMClassifier, LMGridSearchCV

OWN = {"wine": load_wine, "breast cancer": load_breast_cancer, "digits": load_digits}
KEEL = ("ionosphere", "vehicle", "banana", "phoneme", "segment", "satimage")


def load(name):
    if name in OWN:
        return OWN[name](return_X_y=True)
    with gzip.open(pathlib.Path(os.environ["SKLM_CLASSES"]) / f"{name}.dat.gz", "rt") as file:
        rows = [[cell.strip() for cell in line.split(",")] for line in file if line.strip() and line[0] != "@"]
    table = np.array(rows, dtype=object)
    return table[:, :-1].astype(float), table[:, -1].astype(str)


#: of both kinds of networks, times one over the number of rows
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def searched(model, name, values):
    return GridSearchCV(make_pipeline(StandardScaler(), model), {f"{name}": values}, cv=3, scoring="neg_log_loss")


def models(n_samples, n_classes):
    mlp = {"mlpclassifier__alpha": PENALTIES, "mlpclassifier__hidden_layer_sizes": [(20,), (100,)]}
    return {
        "LMClassifier": LMClassifier(random_state=0),
        "LMClassifier, alpha=1/N": LMClassifier(alpha=1 / n_samples, random_state=0),
        "LMClassifier, alpha='cv'": LMClassifier(alpha="cv", random_state=0),
        "LMClassifier searched": LMGridSearchCV(
            LMClassifier(activation="relu", curvature="sampled" if n_classes > 2 else "auto", random_state=0),
            {"alpha": [c / n_samples for c in PENALTIES], "hidden_layer_sizes": [(20,), (100,)]},
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
        **{
            f"MLP {solver} as it is": make_pipeline(StandardScaler(), MLPClassifier(solver=solver, random_state=0))
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
    parser.add_argument("--models", nargs="+", default=list(models(1, 2)))
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=10**9)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    names = args.models
    print("| data | rows x columns, classes | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 2), flush=True)
    for data in args.sets:
        X, y = load(data)
        if len(X) > args.rows:
            X, _, y, _ = train_test_split(X, y, train_size=args.rows, stratify=y, random_state=0)
        splits = list(StratifiedKFold(5, shuffle=True, random_state=0).split(X, y))[: args.folds]
        cells = []
        for name in names:
            accuracy, loss, seconds = [], [], 0.0
            for train, test in splits:
                model = models(len(train), len(set(y)))[name]
                began = time.process_time()
                model.fit(X[train], y[train])
                seconds += time.process_time() - began
                probability = model.predict_proba(X[test])
                accuracy.append(np.mean(model.classes_[probability.argmax(axis=1)] == y[test]))
                loss.append(log_loss(y[test], probability, labels=model.classes_))
            cells.append(f"{np.mean(accuracy):.3f}, {np.mean(loss):.3f} ({seconds / len(splits):.1f} s)")
        print(f"| {data} | {len(X)} x {X.shape[1]}, {len(set(y))} | " + " | ".join(cells) + " |", flush=True)
