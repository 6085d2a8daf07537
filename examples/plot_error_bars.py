"""
Error bars
==========

:class:`sklm.LMRegressor` knows how far its predictions may be off: by the noise of new measurements, and by what the
rows leave open. Here are forty measurements with a gap, beside a Gaussian process on the same rows.
"""

import sys
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from sklm import LMRegressor

# %%
# Data
# ----


def truth(x):
    return np.sin(1.5 * x) + 0.3 * x


rng = np.random.default_rng(4)
x = np.sort(np.concatenate([rng.uniform(-3, 0, 25), rng.uniform(1.2, 3, 15)]))
y = truth(x) + 0.2 * rng.normal(size=len(x))
grid = np.linspace(-3.4, 3.4, 300)

# %%
# Fits
# ----
# Nothing is set by hand. The penalty is found by leaving rows out, the noise from the residuals.

model = LMRegressor(random_state=0).fit(x[:, None], y)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ConvergenceWarning)
    process = GaussianProcessRegressor(ConstantKernel() * RBF() + WhiteKernel(), random_state=0).fit(x[:, None], y)
print(f"noise: true 0.20, LMRegressor {model.noise_std_:.2f}, process {process.kernel_.k2.noise_level**0.5:.2f}")

# %%
# Bands
# -----
# The dark band is where the curve may lie, the light one where about 95 % of new measurements fall.

figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
noises = (model.noise_std_, process.kernel_.k2.noise_level**0.5)
for axes, fitted, noise, name in zip(
    panels, (model, process), noises, ("LMRegressor()", "Gaussian process"), strict=True
):
    curve, deviation = fitted.predict(grid[:, None], return_std=True)
    band = np.sqrt(np.maximum(deviation**2 - noise**2, 0))
    axes.fill_between(grid, curve - 2 * deviation, curve + 2 * deviation, color="C0", alpha=0.15, lw=0)
    axes.fill_between(grid, curve - 2 * band, curve + 2 * band, color="C0", alpha=0.35, lw=0)
    axes.plot(grid, curve, color="C0", lw=1.5, label="fitted")
    axes.plot(grid, truth(grid), color="0.3", lw=1, ls="--", label="truth")
    axes.plot(x, y, "o", color="0.2", ms=3, label="measured")
    axes.set(title=name, xlabel="x", ylim=(-3, 3))
panels[0].legend(loc="lower right", fontsize="small")
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=110)
plt.show()
