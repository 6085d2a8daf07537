"""Data that a line, a polynomial or a few waves describe: errors of default fits, of a hidden layer, and of others.

    OMP_NUM_THREADS=1 python tests/benchmarks/simple_models.py [--seeds 5]

Mean squared errors on new rows over the variance of the function, and seconds of the processor, medians over seeds. The
hidden layer is that of ``LMRegressor(20, activation='tanh')``, the Gaussian process has one length a column, white
noise and two restarts on scaled X and y, and the formula is the function itself with its parameters by least squares:
those of a polynomial, or of the waves, whose true frequencies are given as a start. At the end, curves and tables that
are nothing of the kind.
"""

import argparse
import time
import warnings

import numpy as np
from scipy.optimize import least_squares
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from sklm import LMRegressor

N_NEW = 2000


def surface(n_rows, n_columns, noise):
    def draw(rng):
        slopes, form = rng.normal(size=n_columns), rng.normal(size=(n_columns, n_columns))
        X = rng.uniform(-1, 1, (n_rows + N_NEW, n_columns))
        return X, X @ slopes + np.einsum("ij,jk,ik->i", X, form, X), noise, n_rows, least_squares_on_terms(2)

    return draw


def design(rng):
    levels = np.array(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3)).reshape(3, -1).T
    X = np.vstack([levels, rng.uniform(-1, 1, (N_NEW, 3))])
    slopes, form = rng.normal(size=3), rng.normal(size=(3, 3))
    return X, X @ slopes + np.einsum("ij,jk,ik->i", X, form, X), 0.05, 27, least_squares_on_terms(2)


def parabola(n_rows, noise):
    def draw(rng):
        x = rng.uniform(-1, 1, (n_rows + N_NEW, 1))
        return x, x[:, 0] + rng.uniform(0.5, 3) * x[:, 0] ** 2, noise, n_rows, least_squares_on_terms(2)

    return draw


def cubic(rng):
    x = rng.uniform(-1, 2, (20 + N_NEW, 1))
    return x, x[:, 0] ** 3 - x[:, 0], 0.0, 20, least_squares_on_terms(3)


def noisy_cubic(rng):
    x, coefficients = rng.uniform(-1, 1, (100 + N_NEW, 1)), rng.normal(size=4)
    return x, np.polynomial.chebyshev.chebval(x[:, 0], coefficients), 0.1, 100, least_squares_on_terms(3)


def box_behnken(rng):
    pairs = [(first, second) for first in range(3) for second in range(first)]
    runs = np.zeros((13, 3))
    for number, (pair, signs) in enumerate((pair, signs) for pair in pairs for signs in np.ndindex(2, 2)):
        runs[number, list(pair)] = 2 * np.array(signs) - 1
    X = np.vstack([runs, rng.uniform(-1, 1, (N_NEW, 3))])
    slopes, form = rng.normal(size=3), rng.normal(size=(3, 3))
    return X, X @ slopes + np.einsum("ij,jk,ik->i", X, form, X), 0.01, 13, least_squares_on_terms(2)


def heartbeat(x):
    return np.exp(-0.5 * (((5 * x) % 1 - 0.5) / 0.03) ** 2)


def waves(n_rows, cycles, heights, noise, slope=0.0):
    def draw(rng):
        x, phases = rng.uniform(0, 1, (n_rows + N_NEW, 1)), rng.uniform(0, 6, len(cycles))
        frequencies = 2 * np.pi * np.array(cycles)
        y = slope * x[:, 0] + np.sin(x * frequencies + phases) @ heights
        return x, y, noise, n_rows, least_squares_of_waves(frequencies)

    return draw


def other(function, n_rows, n_columns, noise):
    def draw(rng):
        X = rng.uniform(0, 1, (n_rows + N_NEW, n_columns))
        return X, function(*X.T), noise, n_rows, None

    return draw


def least_squares_on_terms(degree):
    return make_pipeline(PolynomialFeatures(degree), LinearRegression())


class least_squares_of_waves:
    def __init__(self, frequencies):
        self.frequencies = frequencies

    def _columns(self, X, frequencies):
        return np.hstack([np.ones_like(X), X, np.sin(X * frequencies), np.cos(X * frequencies)])

    def fit(self, X, y):
        def left(frequencies):
            columns = self._columns(X, frequencies)
            return y - columns @ np.linalg.lstsq(columns, y, rcond=None)[0]

        self.known = least_squares(left, self.frequencies, x_scale="jac", xtol=1e-15, ftol=1e-15, gtol=1e-15).x
        self.coefficients = np.linalg.lstsq(self._columns(X, self.known), y, rcond=None)[0]
        return self

    def predict(self, X):
        return self._columns(X, self.known) @ self.coefficients


CASES = {
    "response surface, 40 x 2, noise 0.1": surface(40, 2, 0.1),
    "response surface, 100 x 6, noise 0.1": surface(100, 6, 0.1),
    "response surface, 200 x 10, noise 0.1": surface(200, 10, 0.1),
    "response surface, 100 x 8": surface(100, 8, 0.0),
    "three levels of three factors, noise 0.05": design,
    "13 runs of three factors (Box-Behnken), noise 0.01": box_behnken,
    "parabola, 12 points, noise 0.1": parabola(12, 0.1),
    "parabola, 50 points, noise 0.3": parabola(50, 0.3),
    "cubic, 20 points": cubic,
    "cubic, 100 points, noise 0.1": noisy_cubic,
    "one wave of 6 cycles, 30 points, noise 0.1": waves(30, (6.0,), (1.0,), 0.1),
    "one wave of 30 cycles, 300 points, noise 0.2": waves(300, (30.0,), (1.0,), 0.2),
    "one wave of 5 cycles, 500 points, noise 0.3": waves(500, (5.0,), (1.0,), 0.3),
    "two waves, 100 points, noise 0.1": waves(100, (5.8, 6.3), (1.0, 0.4), 0.1),
    "three waves on a slope, 300 points, noise 0.3": waves(300, (4.2, 8.4, 25.0), (1.0, 0.4, 0.3), 0.3, 3.0),
    "two waves, 400 points": waves(400, (11.0, 27.3), (1.0, 0.5), 0.0),
    "five heartbeats, 300 points, noise 0.02": other(heartbeat, 300, 1, 0.02),
    "exp(-x) sin, 200 points, noise 0.05": other(lambda x: np.exp(-3 * x) * np.sin(40 * x), 200, 1, 0.05),
    "chirp, 200 points, noise 0.1": other(lambda x: np.sin(40 * x**2), 200, 1, 0.1),
    "peak, 100 points, noise 0.1": other(lambda x: np.exp(-200 * (x - 0.4) ** 2), 100, 1, 0.1),
    "exp, 60 points, noise 0.2": other(lambda x: np.exp(3 * x), 60, 1, 0.2),
    "sin a cos b, 150 x 2, noise 0.1": other(lambda a, b: np.sin(6 * a) * np.cos(5 * b), 150, 2, 0.1),
    "products of roots, 100 x 4, noise 0.05": other(lambda a, b, c, d: np.sqrt(a + b) / (1 + c * d), 100, 4, 0.05),
}


def of_process(n_columns, seed):
    kernel = ConstantKernel() * RBF(np.ones(n_columns), (1e-3, 1e3)) + WhiteKernel(0.1, (1e-10, 10))
    process = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=2, random_state=seed)
    return make_pipeline(StandardScaler(), process)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| data | default | hidden layer | Gaussian process | formula | s, default | s, hidden layer | kept |")
    print("|" + "---|" * 8)
    for case, draw in CASES.items():
        errors, seconds, kept = [], [], []
        for seed in range(args.seeds):
            rng = np.random.default_rng(seed)
            X, true, noise, n_rows, formula = draw(rng)
            y = true[:n_rows] + noise * true.std() * rng.normal(size=n_rows)
            models = [LMRegressor(random_state=seed), LMRegressor(20, activation="tanh", random_state=seed)]
            models += [of_process(X.shape[1], seed), formula]
            row, times = [], []
            for model in models:
                began = time.process_time()
                predicted = np.nan if model is None else model.fit(X[:n_rows], y).predict(X[n_rows:])
                times.append(time.process_time() - began)
                row.append(np.mean((predicted - true[n_rows:]) ** 2) / true.var())
            errors.append(row)
            seconds.append(times)
            kept.append(str(models[0].architecture_).replace("hidden_layer_sizes=", "").replace("activation=", ""))
        text = " | ".join("" if np.isnan(value) else f"{value:.2g}" for value in np.median(errors, axis=0))
        ours, layer = np.median(seconds, axis=0)[:2]
        most = max(set(kept), key=kept.count)
        print(
            f"| {case} | {text} | {ours:.1f} | {layer:.1f} | `{most}` {kept.count(most)} of {len(kept)} |", flush=True
        )
