"""Smooth tables without noise, or with little: errors on new rows of the default, of one hidden layer, and of others.

    python tests/benchmarks/smooth_tables.py              # no noise
    python tests/benchmarks/smooth_tables.py --noise 0.05 # of the deviation

Functions of the literature on computer experiments and of scikit-learn. Errors are root mean squares against the
function itself, over its deviation; geometric means over seeds. Everybody has its defaults, networks and the Gaussian
process on scaled X and y.
"""

import argparse
import warnings

import numpy as np
from relevance import N_NEW, compare, friedman, regressors, relative_error
from sklearn.datasets import make_friedman2, make_friedman3

from sklm import LMRegressor


def table(function, low, high, n_samples, noise, seed):
    rng = np.random.default_rng(seed)
    X = rng.uniform(low, high, (n_samples + N_NEW, len(low)))
    y = function(*X.T)
    return X[:n_samples], y[:n_samples] + noise * y.std() * rng.standard_normal(n_samples), X[n_samples:], y[n_samples:]


def runge(x):
    return 1 / (1 + 25 * x**2)


def two_frequencies(x):
    return np.sin(2 * x) + np.sin(10 * x / 3)


def ishigami(a, b, c):
    return np.sin(a) + 7 * np.sin(b) ** 2 + 0.1 * c**4 * np.sin(a)


def currin(a, b):
    return (1 - np.exp(-0.5 / b)) * (2300 * a**3 + 1900 * a**2 + 2092 * a + 60) / (100 * a**3 + 500 * a**2 + 4 * a + 20)


def lim(a, b):
    return 9 + 2.5 * a - 17.5 * b + 2.5 * a * b + 19 * b**2 - 7.5 * a**3 - 2.5 * a * b**2 - 5.5 * b**4 + a**3 * b**2


def goldstein_price(a, b):
    x, y = 4 * a - 2, 4 * b - 2
    first = 1 + (x + y + 1) ** 2 * (19 - 14 * x + 3 * x**2 - 14 * y + 6 * x * y + 3 * y**2)
    second = 30 + (2 * x - 3 * y) ** 2 * (18 - 32 * x + 12 * x**2 + 48 * y - 36 * x * y + 27 * y**2)
    return np.log(first * second)


def curved(a, b, c):
    return 4 * (a - 2 + 8 * b - 8 * b**2) ** 2 + (3 - 4 * b) ** 2 + 16 * np.sqrt(c + 1) * (2 * c - 1) ** 2


def wing_weight(area, fuel, aspect, sweep, pressure, taper, thickness, load, mass, paint):
    cosine = np.cos(np.deg2rad(sweep))
    wing = 0.036 * area**0.758 * fuel**0.0035 * (aspect / cosine**2) ** 0.6 * pressure**0.006 * taper**0.04
    return wing * (100 * thickness / cosine) ** -0.3 * (load * mass) ** 0.49 + area * paint


#: name: function, lower and upper bounds, rows
FORMULAS = {
    "Runge, 1 column": (runge, [-1], [1], 60),
    "two frequencies, 1 column": (two_frequencies, [2.7], [7.5], 40),
    "Currin et al., 2 columns": (currin, [0, 0.01], [1, 1], 200),
    "Lim et al., 2 columns": (lim, [0, 0], [1, 1], 100),
    "log Goldstein-Price, 2 columns": (goldstein_price, [0, 0], [1, 1], 300),
    "Ishigami, 3 columns": (ishigami, [-np.pi] * 3, [np.pi] * 3, 400),
    "Dette-Pepelyshev, 3 columns": (curved, [0] * 3, [1] * 3, 200),
    "wing weight, 10 columns": (
        wing_weight,
        [150, 220, 6, -10, 16, 0.5, 0.08, 2.5, 1700, 0.025],
        [200, 300, 10, 10, 45, 1, 0.18, 6, 2500, 0.08],
        300,
    ),
}


def tables(noise):
    made = {
        f"{name}, {n} rows": lambda s, f=f, low=low, high=high, n=n: table(f, low, high, n, noise, s)
        for name, (f, low, high, n) in FORMULAS.items()
    }
    made["Friedman 2, 4 columns, 200 rows"] = lambda s: friedman(make_friedman2, 200, noise, s)
    made["Friedman 3, 4 columns, 500 rows"] = lambda s: friedman(make_friedman3, 500, noise, s)
    return made


def contestants(n_columns):
    others = regressors(n_columns)
    del others["relevance=None"]
    return {"LMRegressor(20)": LMRegressor(20, random_state=0), **others}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--noise", type=float, default=0.0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    compare(tables(args.noise), contestants, relative_error, args.seeds)
