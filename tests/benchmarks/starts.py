"""Kinds of starts, and the default estimator against 50 single starts without penalty, on problems made from formulas.

    python tests/benchmarks/starts.py            # the default (a penalty by rows left out, four kinds in turn)
    python tests/benchmarks/starts.py --kinds    # every kind on its own

Errors are relative: mean squared error over the variance of y, on the training rows and on 1000 new ones without noise.
Noisy targets have normal noise of a tenth of their standard deviation. Noise-free fits end after 400 iterations, the
others where they converge.
"""

import argparse
import time
import warnings

import numpy as np
from acceleration import PROBLEMS

from sklm import LMRegressor

ROWS = {"Franke": 300, "Branin": 200, "Gramacy-Lee": 100, "Forrester": 100, "OTL circuit": 300, "borehole": 300}
KINDS = ("nguyen_widrow", "normal", "data", "glorot")


def data(name, noise):
    function, low, high, _, hidden, _ = PROBLEMS[name]
    rng = np.random.default_rng(0)
    X = rng.uniform(low, high, (ROWS[name], len(low)))
    y = function(*X.T)
    X_new = rng.uniform(low, high, (1000, len(low)))
    return X, y + noise * y.std() * rng.normal(size=len(y)), X_new, function(*X_new.T), hidden


def fits(name, noise, seeds, hidden=None, **options):
    """Errors on old and new rows (len(seeds), 2), and processor seconds of a fit; with ``hidden`` units, or its own."""
    X, y, X_new, y_new, units = data(name, noise)
    hidden = hidden or units
    if noise == 0:
        options["max_iter"] = 400
    errors, began = [], time.process_time()
    for seed in seeds:
        model = LMRegressor(hidden, random_state=seed, **options).fit(X, y)
        errors.append((2 * model.loss_ / y.var(), np.mean((model.predict(X_new) - y_new) ** 2) / y_new.var()))
    return np.array(errors), (time.process_time() - began) / len(seeds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kinds", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    columns = ("default: training, new", "best of 50: training, new", "typical: new", "cost", "units, too: new", "cost")
    columns = KINDS if args.kinds else columns
    print("| problem | noise | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 2) + "|")
    for name in ROWS:
        for noise in (0, 0.1):
            if args.kinds:
                cells = [
                    "{:.1e}, {:.1e}".format(
                        *np.median(fits(name, noise, range(24), init=kind, n_init=1, alpha=0.0)[0], axis=0)
                    )
                    for kind in KINDS
                ]
            else:
                single, one = fits(name, noise, range(100, 150), n_init=1, alpha=0.0)
                chosen, several = fits(name, noise, range(10))
                train, new = np.median(chosen, axis=0)
                best = single[single[:, 0].argmin()]
                cells = [f"{train:.1e}, {new:.1e}", f"{best[0]:.1e}, {best[1]:.1e}", f"{np.median(single[:, 1]):.1e}"]
                cells.append(f"{several / one:.1f}")
                every, seconds = fits(name, noise, range(10), "auto")
                cells += [f"{np.median(every, axis=0)[1]:.1e}", f"{seconds / one:.1f}"]
            print(f"| {name} | {noise} | " + " | ".join(cells) + " |", flush=True)
