"""Error on new rows and time by the number of hidden units, against MLPRegressor as it is.

Reads UCI-style tables as ``regression_sets.py`` does:

    SKLM_TABLES=path/to/folder OMP_NUM_THREADS=1 python tests/benchmarks/units.py

A set NAME:N is trained on N rows drawn at random and tested on 4000 others, any other on nine tenths and tested on the
rest. Errors are root mean squared, over the standard deviation of the new rows; time is of the processor.
"""

import argparse
import time
import warnings

import numpy as np
from regression_sets import load, scaled
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPRegressor

from sklm import LMRegressor

SETS = ("autompg", "stock", "pendulum", "airfoil", "parkinsons", "elevators")
SETS += ("kin40k:1000", "kin40k:2000", "kin40k:5000", "kin40k:10000")
MODELS = {
    "20 units": lambda seed: LMRegressor(20, random_state=seed),
    "50 units": lambda seed: LMRegressor(50, random_state=seed),
    "default": lambda seed: LMRegressor(random_state=seed),
    "MLPRegressor, adam": lambda seed: scaled(MLPRegressor(random_state=seed)),
    "MLPRegressor, lbfgs": lambda seed: scaled(MLPRegressor(solver="lbfgs", random_state=seed)),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| data | training rows x columns | " + " | ".join(MODELS) + " |\n" + "|---" * (len(MODELS) + 2) + "|")
    for data in args.sets:
        name, _, number = data.partition(":")
        X, y = load(name)
        sizes = {"train_size": int(number), "test_size": 4000} if number else {"test_size": 0.1}
        cells = []
        for make in MODELS.values():
            errors, seconds = [], 0.0
            for seed in range(args.seeds):
                train, test, y_train, y_test = train_test_split(X, y, random_state=seed, **sizes)
                began = time.process_time()
                model = make(seed).fit(train, y_train)
                seconds += time.process_time() - began
                errors.append(np.sqrt(np.mean((model.predict(test) - y_test) ** 2)) / y_test.std())
            cells.append(f"{np.mean(errors):.3f} ({seconds / args.seeds:.1f} s)")
        print(f"| {name} | {len(y_train)} x {X.shape[1]} | " + " | ".join(cells) + " |", flush=True)
