"""Accuracy by iteration of every optimizer: the digits of scikit-learn, MLP 64-40-20-10.

    python tests/benchmarks/digits_optimizers.py --seeds 3 --iterations 200

Trained on the first 80 % of the rows, judged on the last 20 % (other writers). Network, loss, penalty (the default) and
starts are the same for all; an iteration is an epoch for Adam and SGD (steps on 200 rows), a step for the others. Each
cell is the median over seeds of the share of right answers of the best model so far, by training objective; the last
columns are the training loss at the end and the seconds of training. Rates other than the defaults show what tuning
brings.
"""

import argparse
import warnings

import numpy as np
from mnist import Watch
from sklearn.datasets import load_digits

from sklm import LMClassifier
from sklm.optim import SGD, Adam

OPTIMIZERS = {
    "lm": "lm",
    "lbfgs": "lbfgs",
    "lbfgs_armijo": "lbfgs_armijo",
    "adam": "adam",
    "Adam(0.01)": Adam(0.01),
    "sgd": "sgd",
    "SGD(0.1)": SGD(0.1),
}
MARKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def run(optimizer, seed, n_iter):
    """Accuracies (n_iter,), the last one repeated after an early end; training loss; seconds."""
    X, y = load_digits(return_X_y=True)
    cut = int(0.8 * len(X))
    watch = Watch(X[cut:], y[cut:])
    model = LMClassifier((40, 20), optimizer=optimizer, max_iter=n_iter, tol=0.0, n_iter_no_change=n_iter)
    model.set_params(random_state=seed).set_callbacks(watch).fit(X[:cut], y[:cut])
    accuracy = [score for _, score in watch.curve]
    return np.pad(accuracy, (0, n_iter - len(accuracy)), mode="edge"), model.loss_, watch.seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=200)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    marks = [mark for mark in MARKS if mark <= args.iterations]
    print(f"| optimizer | {' | '.join(map(str, marks))} | training loss | s |")
    print("|---|" + "---|" * (len(marks) + 2))
    for label, optimizer in OPTIMIZERS.items():
        runs = [run(optimizer, seed, args.iterations) for seed in range(args.seeds)]
        accuracy = np.median([curve for curve, _, _ in runs], axis=0)
        loss, seconds = np.median([r[1:] for r in runs], axis=0)
        cells = " | ".join(f"{100 * accuracy[mark - 1]:.1f}" for mark in marks)
        print(f"| {label} | {cells} | {loss:.4f} | {seconds:.1f} |", flush=True)
