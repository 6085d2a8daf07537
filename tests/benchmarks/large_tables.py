"""Many rows and many parameters: errors on new rows after equal processor time, with default options.

OMP_NUM_THREADS=1 python tests/benchmarks/large_tables.py [--seconds 20] [--only 20000-2121]

A smooth function of ten inputs (sines of eight random projections and a product) with and without noise, and generated
classes. ``LMRegressor`` and ``LMClassifier`` have default options but for ``max_time``; beside them all rows at every
step (``batch_size=None``; not for 4929 parameters, where an iteration takes minutes), and Adam of scikit-learn, stopped
after the same processor time. All have two equal hidden layers, or one, of tanh units.
"""

import argparse
import time
import warnings

import numpy as np
from sklearn.datasets import make_classification
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier, MLPRegressor

from sklm import LMClassifier, LMRegressor

N_NEW = 5000
#: name (rows and parameters): rows, hidden layers
TABLES = {
    "6000-1149": (6000, (28, 28)),
    "20000-2121": (20_000, (40, 40)),
    "50000-4929": (50_000, (64, 64)),
    "100000-493": (100_000, (41,)),
    "1000000-241": (1_000_000, (20,)),
}


def surface(n_samples, noise, seed=0):
    """Rows X (N + N_NEW, 10), and targets with and without noise."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, size=(n_samples + N_NEW, 10))
    y = np.sin(1.5 * X @ rng.normal(size=(10, 8))) @ rng.normal(size=8) + 2 * X[:, 0] * X[:, 1]
    y /= y.std()
    return X, y + noise * rng.normal(size=len(y)), y


def with_limit(base, seconds):
    """The estimator of scikit-learn that ends after so many seconds of processor time, as by Ctrl-C."""

    class Limited(base):
        def _update_no_improvement_count(self, *given):
            super()._update_no_improvement_count(*given)
            if time.process_time() > self.until_:
                raise KeyboardInterrupt

        def fit(self, *given):
            self.until_ = time.process_time() + seconds
            return super().fit(*given)

    options = {"max_iter": 10**6, "tol": 0.0, "n_iter_no_change": 10**6, "random_state": 0, "activation": "tanh"}
    return lambda hidden: Limited(hidden_layer_sizes=hidden, **options)


def contestants(ours, theirs, seconds, all_rows=True):
    options = {"random_state": 0, "max_time": seconds}
    yield "default options", lambda hidden: ours(hidden, **options)
    if all_rows:
        yield "`batch_size=None`", lambda hidden: ours(hidden, batch_size=None, **options)
    yield f"{theirs.__name__}, adam", with_limit(theirs, seconds)


def report(name, kind, make, hidden, X, y, judge):
    began = time.process_time()
    model = make(hidden).fit(X, y)
    seconds = time.process_time() - began
    print(f"| {name} | {kind} | {model.n_iter_} | {judge(model)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| table | | iterations or epochs | on new rows | s |\n|---|---|---|---|---|", flush=True)
    for name, (n_samples, hidden) in TABLES.items():
        if not name.startswith(args.only):
            continue
        for noise in (0.0, 0.3):
            X, noisy, clean = surface(n_samples, noise)
            for kind, make in contestants(LMRegressor, MLPRegressor, args.seconds, name != "50000-4929"):
                report(
                    f"{name}, noise {noise}",
                    kind,
                    make,
                    hidden,
                    X[:n_samples],
                    noisy[:n_samples],
                    lambda m, X=X, y=clean: f"{np.mean((m.predict(X[-N_NEW:]) - y[-N_NEW:]) ** 2):.2g}",
                )
    if "classes".startswith(args.only) or args.only.startswith("classes"):
        X, y = make_classification(
            20_000 + N_NEW, 20, n_informative=12, n_redundant=4, n_classes=6, n_clusters_per_class=3, class_sep=1.5,
            flip_y=0.02, random_state=0,
        )  # fmt: skip
        for hidden in ((40, 40), (100,)):
            for kind, make in contestants(LMClassifier, MLPClassifier, args.seconds):
                report(
                    f"classes, {hidden} units",
                    kind,
                    make,
                    hidden,
                    X[:-N_NEW],
                    y[:-N_NEW],
                    lambda m, X=X[-N_NEW:], y=y[-N_NEW:]: f"{log_loss(y, m.predict_proba(X)):.3f}, {m.score(X, y):.3f}",
                )
