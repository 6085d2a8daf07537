"""How long default fits take, by rows, columns and kind of targets, and how good they are.

    OMP_NUM_THREADS=1 python tests/benchmarks/fit_times.py
    OMP_NUM_THREADS=1 python tests/benchmarks/fit_times.py --kinds "two classes" --rows 200 1000 --columns 5

Columns are uniform in [-1, 1], of which at most four matter: ``sin(3 a) + 2 b c + d / 2``. Targets are that without
noise, with noise (deviation 0.1; that of the function is 1), or classes: its sign, or fifths, after noise of 0.3. Three
outputs are that, ``cos(2 a) + b d`` and ``exp(c / 2) - a``, without noise or with a tenth of their deviations.
Beside ``LMRegressor()`` and ``LMClassifier()``, scikit-learn's MLPs with default options but ``max_iter=1000``, on
scaled X. Seconds of the processor, each fit in a process of its own that is ended after ``--limit`` seconds; errors are
the mean square of what is left of the function on 2000 new rows over its variance (the mean of those of outputs), or
the log-loss on these rows.
"""

import argparse
import json
import subprocess
import sys
import time
import warnings

import numpy as np
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklm import LMClassifier, LMRegressor

KINDS = ("no noise", "noise", "three outputs, no noise", "three outputs, noise", "two classes", "five classes")


def data(kind, n_samples, n_features):
    """Rows, targets, new rows, and their targets; those of functions without noise."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (n_samples + 2000, n_features))
    a, b, c, d = (X[:, min(number, n_features - 1)] for number in range(4))
    f, noise = np.sin(3 * a) + 2 * b * c + d / 2, rng.standard_normal(len(X))
    if "outputs" in kind:
        f = np.column_stack([f, np.cos(2 * a) + b * d, np.exp(c / 2) - a])
        noise = rng.standard_normal(f.shape) * f.std(axis=0)
    if "no noise" in kind:
        y = f
    elif "noise" in kind:
        y = f + 0.1 * noise
    elif kind == "two classes":
        y = (f + 0.3 * noise > 0).astype(int)
    else:
        y = np.digitize(f + 0.3 * noise, np.quantile(f, [0.2, 0.4, 0.6, 0.8]))
    new = f if "noise" in kind else y
    return X[:n_samples], y[:n_samples], X[n_samples:], new[n_samples:]


def fit(kind, n_samples, n_features, who):
    X, y, X_new, y_new = data(kind, n_samples, n_features)
    classes = "classes" in kind
    if who == "sklm":
        model = (LMClassifier if classes else LMRegressor)(random_state=0)
    else:
        model = make_pipeline(
            StandardScaler(), (MLPClassifier if classes else MLPRegressor)(max_iter=1000, random_state=0)
        )
    began = time.process_time()
    model.fit(X, y)
    seconds = time.process_time() - began
    if classes:
        return seconds, log_loss(y_new, model.predict_proba(X_new), labels=model.classes_)
    return seconds, float(np.mean(np.mean((model.predict(X_new) - y_new) ** 2, axis=0) / np.var(y_new, axis=0)))


def in_a_process(limit, *what):
    command = [sys.executable, __file__, "--one", *map(str, what)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=True)
    except subprocess.TimeoutExpired:
        return f"more than {limit:g} s"
    seconds, error = json.loads(done.stdout)
    return f"{seconds:.1f} s, {error:.2g}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--rows", type=int, nargs="+", default=[50, 200, 1000, 5000, 20_000, 100_000])
    parser.add_argument("--columns", type=int, nargs="+", default=[1, 5, 20, 60])
    parser.add_argument("--limit", type=float, default=120)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        warnings.simplefilter("ignore")
        kind, n_samples, n_features, who = arguments.one
        print(json.dumps(fit(kind, int(n_samples), int(n_features), who)))
        sys.exit()
    for kind in arguments.kinds:
        print(f"\n**{kind}**\n\n| rows x columns | sklm: s, error | MLP: s, error |\n|---|---|---|")
        for n_samples in arguments.rows:
            for n_features in arguments.columns:
                if n_samples * n_features <= 2e6:
                    cells = [in_a_process(arguments.limit, kind, n_samples, n_features, who) for who in ("sklm", "mlp")]
                    print(f"| {n_samples} x {n_features} | {' | '.join(cells)} |", flush=True)
