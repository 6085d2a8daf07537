"""How honest error bars are, against those of a Gaussian process.

    OMP_NUM_THREADS=1 python tests/benchmarks/error_bars.py [--seeds 5]

Default ``LMRegressor`` and ``GaussianProcessRegressor`` (one length a column, white noise, one restart; scaled X and y)
on the same rows: the root of the mean squared error on new rows, the shares of these within one and within 1.96
standard deviations (0.683 and 0.950 would be right), the mean negative log-density of their targets, and seconds of the
processor; means over seeds.
"""

import argparse
import time
import warnings

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes, make_friedman1
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklm import LMRegressor


def curve(noise, n_rows):
    def draw(seed):
        rng = np.random.default_rng(seed)
        x = rng.uniform(-1, 1, (n_rows + 1000, 1))
        return x, np.sin(5 * x[:, 0]) * np.exp(x[:, 0]) + noise * rng.normal(size=len(x)), n_rows

    return draw


def friedman(noise, n_rows):
    return lambda seed: (*make_friedman1(n_rows + 1000, noise=noise, random_state=seed), n_rows)


def kink(seed):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (1200, 2))
    return X, np.abs(X[:, 0]) * np.sign(X[:, 1]) + 0.1 * rng.normal(size=len(X)), 200


TABLES = {
    "curve, 50 rows, noise 0.3": curve(0.3, 50),
    "curve, 200 rows, noise 0.1": curve(0.1, 200),
    "Friedman 1, 300 rows, noise 1": friedman(1.0, 300),
    "Friedman 1, 300 rows, noise 0.1": friedman(0.1, 300),
    "kink and jump, 200 rows, noise 0.1": kink,
    "diabetes, 309 rows": lambda seed: (*load_diabetes(return_X_y=True), 309),
}


def of_process(X, y, X_new, seed):
    kernel = ConstantKernel() * RBF(np.ones(X.shape[1])) + WhiteKernel()
    process = GaussianProcessRegressor(kernel, n_restarts_optimizer=1, random_state=seed)
    model = TransformedTargetRegressor(make_pipeline(StandardScaler(), process), transformer=StandardScaler())
    model.fit(X, y)
    _, deviation = model.regressor_.predict(X_new, return_std=True)
    return model.predict(X_new), deviation * model.transformer_.scale_


def of_network(X, y, X_new, seed):
    return LMRegressor(random_state=seed).fit(X, y).predict(X_new, return_std=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| table | model | error | within 1 | within 1.96 | log-density | s |\n|" + "---|" * 7)
    for table, draw in TABLES.items():
        for name, predict in (("LMRegressor", of_network), ("Gaussian process", of_process)):
            figures = []
            for seed in range(args.seeds):
                X, y, n_rows = draw(seed)
                X, X_new, y, y_new = train_test_split(X, y, train_size=n_rows, random_state=seed)
                began = time.process_time()
                predicted, deviation = predict(X, y, X_new, seed)
                seconds = time.process_time() - began
                error = (y_new - predicted) / deviation
                density = 0.5 * np.log(2 * np.pi * deviation**2) + 0.5 * error**2
                within = (np.mean(np.abs(error) < limit) for limit in (1, 1.96))
                figures.append([np.sqrt(np.mean((y_new - predicted) ** 2)), *within, density.mean(), seconds])
            error, one, two, density, seconds = np.mean(figures, axis=0)
            row = f"{error:.3g} | {one:.2f} | {two:.3f} | {density:.3f} | {seconds:.1f}"
            print(f"| {table} | {name} | {row} |", flush=True)
