"""
Many rows: split Jacobian and mini-batches
==========================================

200 000 rows lie in a file and are read as a memory map. A Levenberg-Marquardt step needs the Jacobian of every row,
but never all at once: ``jacobian_max_rows`` says how many are held, and changes memory but not the result.
``batch_size`` is something else: every step sees some of the rows only, and the result changes.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from sklm import LMRegressor

warnings.simplefilter("ignore", ConvergenceWarning)  # the fits below are kept short
threadpool_limits(1)  # one core, so that the example takes as long beside other work

try:
    import resource
except ImportError:  # not on Windows
    resource = None


def peak_memory():
    """Largest resident memory of this process so far, in MiB; NaN where the system does not tell."""
    if resource is None:
        return np.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


# %%
# A file of 200 000 rows
# ----------------------
# The target is a smooth function of four columns plus noise of standard deviation 0.1. The file is opened read-only.
# Data that take less than a quarter of the free memory are copied into it once; larger maps are read chunk by chunk
# in every iteration.

n_rows, n_columns = 200_000, 4
folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "X.npy"
rng = np.random.default_rng(0)
target = np.lib.format.open_memmap(path, mode="w+", dtype=np.float64, shape=(n_rows, n_columns))
for start in range(0, n_rows, 50_000):
    target[start : start + 50_000] = rng.uniform(-1, 1, (50_000, n_columns))
target.flush()
del target

X = np.load(path, mmap_mode="r")
clean = np.sin(3 * X[:, 0]) * X[:, 1] + np.exp(-4 * X[:, 2] ** 2) - 0.5 * X[:, 3]
y = clean + rng.normal(0, 0.1, n_rows)

# %%
# Split Jacobian
# --------------
# The peak only ever rises, so the settings run from the smallest chunk to all rows at once, and the first line includes
# what every fit needs: a copy of the data and the forward pass. With ``growing=False`` every iteration works on all
# rows.

network = {"hidden_layer_sizes": 8, "random_state": 0, "n_init": 1}
LMRegressor(**network, max_iter=1).fit(X[:1000], y[:1000])  # libraries are loaded on the first call

print("jacobian_max_rows  Jacobian held  peak above the start  largest difference of predictions")
held, rises, reference = [], [], None
n_parameters = 8 * (n_columns + 1) + 9
settings = [1000, "auto", 50_000, None]
for rows in settings:
    before = peak_memory()
    model = LMRegressor(**network, jacobian_max_rows=rows, growing=False, max_iter=5).fit(X, y)
    rises.append(peak_memory() - before)
    prediction = model.predict(X[:5000])
    reference = prediction if reference is None else reference
    size = "" if rows == "auto" else f"{(rows or n_rows) * (n_parameters + 1) * 8 / 2**20:.1f} MiB"
    difference = np.abs(prediction - reference).max()
    print(f"{rows!s:>17}{size:>15}{sum(rises):18.0f} MiB{difference:35.0e}")

# %%
# All rows, growing, mini-batches
# -------------------------------
# With its default options the fit starts on a few rows and grows to all of them: most iterations are cheap. With
# mini-batches an iteration is a pass over the data, with a step for every batch. The noise sets a floor of 0.1 for
# the error against y; against the clean function the error can go lower. While the fit is growing, its curve is the
# error on the rows in use.

fits = {
    "all rows": {"growing": False, "max_iter": 20},
    "growing (default)": {"max_iter": 40},
    "batches of 2000": {"batch_size": 2000, "max_iter": 3},
}
print(f"\n{'':20}{'iterations':>12}{'steps':>8}{'RMSE against y':>17}{'against the clean function':>29}")
curves = {}
for name, options in fits.items():
    model = LMRegressor(**network, **options).fit(X, y)
    prediction = model.predict(X)
    rmse, clean_rmse = (np.sqrt(np.mean((prediction - goal) ** 2)) for goal in (y, clean))
    steps = model.n_iter_ * (100 if "batch_size" in options else 1)
    curves[name] = (np.linspace(steps / model.n_iter_, steps, model.n_iter_), np.sqrt(2 * model.loss_curve_))
    print(f"{name:20}{model.n_iter_:12d}{steps:8d}{rmse:17.4f}{clean_rmse:29.4f}")

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
left.bar(["all" if rows is None else str(rows) for rows in settings], np.cumsum(rises), color="C0")
left.set(xlabel="jacobian_max_rows", ylabel="MiB", title="Peak memory above that of the start")
for name, (steps, curve) in curves.items():
    right.semilogx(steps, curve, marker="o", ms=3, label=name)
right.axhline(0.1, color="0.5", lw=1, ls=":", label="noise")
right.set(xlabel="step", ylabel="training error (RMSE)", ylim=(0.09, 0.16), title="200 000 rows, 49 parameters")
right.legend(fontsize="small")
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=120)
plt.show()

del X
folder.cleanup()
