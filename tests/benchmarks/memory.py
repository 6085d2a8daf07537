"""Peak memory of a fit of 10^6 rows and 493 parameters, and agreement of different chunk sizes.

python tests/benchmarks/memory.py
"""

import argparse
import resource
import subprocess
import sys
import warnings

import numpy as np

from sklm import LMRegressor


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def data(n_samples, n_features=10):
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (n_samples, n_features))
    return X, np.sin(3 * X[:, 0]) * X[:, 1] + X[:, 2] ** 2


def fit(n_samples, max_iter=3):
    """Print the peak before and after a few full-data iterations."""
    warnings.simplefilter("ignore")
    X, y = data(n_samples)
    before = peak_mib()
    model = LMRegressor(hidden_layer_sizes=41, random_state=0, max_iter=max_iter, batch_size=None, growing=False).fit(
        X, y
    )
    print(f"| {n_samples} | {model.theta_.size} | {before:.0f} | {peak_mib():.0f} |")


def chunks():
    """Largest relative difference of the loss curve between chunk sizes."""
    warnings.simplefilter("ignore")
    X, y = data(1000, 3)
    curves = {
        rows: LMRegressor(hidden_layer_sizes=10, random_state=0, max_iter=30, jacobian_max_rows=rows)
        .fit(X, y)
        .loss_curve_
        for rows in (7, 100, None, "auto")
    }
    reference = curves[None]
    for rows, curve in curves.items():
        print(f"jacobian_max_rows={rows}: {np.max(np.abs(curve / reference - 1)):.1e} relative after 30 iterations")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=None)
    args = parser.parse_args()
    if args.rows is not None:
        fit(args.rows)
    else:
        print("| rows | parameters | peak MiB with the data loaded | peak MiB after the fit |\n|---|---|---|---|")
        for rows in (10_000, 100_000, 1_000_000):
            subprocess.run([sys.executable, __file__, "--rows", str(rows)], check=True)
        chunks()
