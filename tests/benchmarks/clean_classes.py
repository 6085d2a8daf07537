"""Log-loss on new rows of classes with sharp borders and no wrong labels, against scikit-learn's classifiers.

    OMP_NUM_THREADS=1 python tests/benchmarks/clean_classes.py [--seeds 3]

Everybody with default options on scaled X (``MLPClassifier`` with enough iterations to end). Points are drawn anew for
every seed; 5000 more judge. Median over seeds, with accuracy and seconds of the processor.
"""

import argparse
import statistics
import time
import warnings

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklm import LMClassifier


def spirals(turns):
    def draw(n, rng):
        angle, y = 2 * np.pi * turns * np.sqrt(rng.uniform(size=n)), np.arange(n) % 2
        X = (angle * np.stack([np.cos(angle + np.pi * y), np.sin(angle + np.pi * y)])).T
        return X + 0.3 * rng.normal(size=X.shape), y

    return draw


def plane(label):
    def draw(n, rng):
        X = rng.uniform(-1, 1, (n, 2))
        return X, label(*X.T).astype(int)

    return draw


def balls(n, rng):
    X = rng.normal(size=(n, 4))
    return X, np.digitize((X**2).sum(1), [2.2, 4.0])


SHAPES = {
    "spirals, 1.5 turns": spirals(1.5),
    "spirals, 3 turns": spirals(3),
    "checkers, 3 x 3": plane(lambda a, b: (np.floor(1.5 * (a + 1)) + np.floor(1.5 * (b + 1))) % 2),
    "four rings": plane(lambda a, b: np.digitize(np.hypot(a, b), [0.4, 0.7, 1.0])),
    "wave": plane(lambda a, b: b > 0.5 * np.sin(6 * a)),
    "three shells, 4 columns": balls,
}
MODELS = {
    "LMClassifier": lambda seed: LMClassifier(random_state=seed),
    "MLP adam": lambda seed: MLPClassifier(random_state=seed, max_iter=3000),
    "MLP lbfgs": lambda seed: MLPClassifier(solver="lbfgs", random_state=seed, max_iter=5000, max_fun=50_000),
    "HistGradientBoosting": lambda seed: HistGradientBoostingClassifier(random_state=seed),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="+", default=[200, 1000])
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| shape | rows | " + " | ".join(MODELS) + " |")
    print("|---" * (len(MODELS) + 2) + "|")
    for shape, draw in SHAPES.items():
        for n in args.rows:
            cells = []
            for make in MODELS.values():
                runs = []
                for seed in range(args.seeds):
                    (X, y), (X_new, y_new) = draw(n, np.random.default_rng(seed)), draw(5000, np.random.default_rng(99))
                    model = make_pipeline(StandardScaler(), make(seed))
                    began = time.process_time()
                    model.fit(X, y)
                    seconds = time.process_time() - began
                    runs.append((log_loss(y_new, model.predict_proba(X_new)), model.score(X_new, y_new), seconds))
                loss, accuracy, seconds = (statistics.median(column) for column in zip(*runs, strict=True))
                cells.append(f"{accuracy:.3f}, {loss:.3f} ({seconds:.1f} s)")
            print(f"| {shape} | {n} | " + " | ".join(cells) + " |", flush=True)
