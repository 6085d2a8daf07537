"""What the penalty that ``alpha='auto'`` finds brings a classifier, on generated tables.

    python tests/benchmarks/classifier_penalty.py --rows 100 400 --seeds 3

Log-loss on 5000 new rows and processor time of a fit, means over the seeds: ``LMClassifier`` with ``alpha`` one over
the number of rows N, with default options (``alpha='auto'``), with ``alpha='cv'``, and a ``VotingClassifier`` of five
starts with default options, which averages their probabilities; ``MLPClassifier`` as it is and ``LogisticRegression``,
on scaled X.
"""

import argparse
import time
import warnings

import numpy as np
from sklearn.datasets import make_circles, make_classification, make_moons
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklm import LMClassifier

N_NEW = 5000


def noisy_circles(n_samples, seed):
    """Two circles; five per cent of the labels are wrong."""
    X, y = make_circles(n_samples, noise=0.15, factor=0.6, random_state=seed)
    wrong = np.random.default_rng(seed).uniform(size=n_samples) < 0.05
    return X, np.where(wrong, 1 - y, y)


def table(n_features, n_informative, n_classes, n_clusters, flipped, separation):
    def make(n_samples, seed):
        return make_classification(
            n_samples,
            n_features,
            n_informative=n_informative,
            n_redundant=0,
            n_classes=n_classes,
            n_clusters_per_class=n_clusters,
            flip_y=flipped,
            class_sep=separation,
            random_state=seed,
        )

    return make


SETS = {
    "two moons, 2 columns": lambda n, seed: make_moons(n, noise=0.3, random_state=seed),
    "two circles, 2 columns, 5 % wrong": noisy_circles,
    "2 classes, 10 columns": table(10, 6, 2, 3, 0.0, 1.5),
    "3 classes, 20 columns, 10 % random": table(20, 5, 3, 2, 0.1, 1.0),
    "2 classes, 50 columns, 5 % random": table(50, 8, 2, 2, 0.05, 1.0),
}

MODELS = {
    "alpha = 1 / N": lambda n_rows: LMClassifier(alpha=1 / n_rows, random_state=0),
    "default": lambda n_rows: LMClassifier(random_state=0),
    "alpha='cv'": lambda n_rows: LMClassifier(alpha="cv", random_state=0),
    "mean of 5 starts": lambda n_rows: VotingClassifier(
        [(str(seed), LMClassifier(random_state=seed)) for seed in range(5)], voting="soft"
    ),
    "MLPClassifier": lambda n_rows: make_pipeline(StandardScaler(), MLPClassifier(random_state=0)),
    "LogisticRegression": lambda n_rows: make_pipeline(StandardScaler(), LogisticRegression()),
}


def measure(make, make_model, n_rows, seed):
    """Log-loss on new rows, and seconds of the fit."""
    X, y = make(n_rows + N_NEW, seed)
    order = np.random.default_rng(seed).permutation(len(y))
    train, new = order[:n_rows], order[n_rows:]
    model = make_model(n_rows)
    began = time.process_time()
    model.fit(X[train], y[train])
    seconds = time.process_time() - began
    return log_loss(y[new], model.predict_proba(X[new])), seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| table | rows | " + " | ".join(MODELS) + " |\n|" + "---|" * (len(MODELS) + 2), flush=True)
    ratios = []
    for name, make in SETS.items():
        for n_rows in args.rows:
            results = np.array(
                [[measure(make, model, n_rows, seed) for seed in range(args.seeds)] for model in MODELS.values()]
            ).mean(axis=1)
            ratios.append(results[:, 0] / results[0, 0])
            cells = " | ".join(f"{loss:.3f} ({seconds:.1f} s)" for loss, seconds in results)
            print(f"| {name} | {n_rows} | {cells} |", flush=True)
    means = np.exp(np.mean(np.log(ratios), axis=0))
    print("| geometric mean of the ratios | | " + " | ".join(f"{ratio:.2f}" for ratio in means) + " |")
