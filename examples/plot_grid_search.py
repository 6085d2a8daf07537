"""
Damping, penalty and batch size in a grid search
================================================

:class:`sklm.LMRegressor` is a step of a scikit-learn pipeline like any other, and ``GridSearchCV`` reaches all of its
options. ``sklm.LMGridSearchCV`` is the same search with all fits run together. Here the data are noisy: the penalty
``alpha`` matters most, then the number of rows of a step. The first damping, which adapts, matters least.
"""

import sys
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_friedman1
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import PolynomialFeatures
from threadpoolctl import threadpool_limits

from sklm import LMGridSearchCV, LMRegressor

warnings.simplefilter("ignore", ConvergenceWarning)  # mini-batches end at max_iter
threadpool_limits(1)  # these fits are too small to share between processor cores

# %%
# Data and pipeline
# -----------------
# Friedman's first function has 10 columns, five of them without influence, and noise of standard deviation 1. The
# pipeline adds the products of columns; there is no scaler, because ``LMRegressor`` standardises X and y itself.

X, y = make_friedman1(n_samples=800, n_features=10, noise=1.0, random_state=0)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)

pipeline = Pipeline(
    [
        ("products", PolynomialFeatures(2, interaction_only=True, include_bias=False)),
        ("lm", LMRegressor(hidden_layer_sizes=4, n_init=1, max_iter=20, random_state=0)),
    ]
)

# %%
# Search
# ------
# ``batch_size=None`` takes all rows at every step. The fits of a batch size run together, whatever their damping,
# penalty and fold.

grid = {
    "lm__alpha": [1e-3, 1e-2, 1e-1],
    "lm__batch_size": [None, 200, 100],
    "lm__damping": [1e-3, 1e-1, 10.0],
}
search = LMGridSearchCV(pipeline, grid, cv=3).fit(X_train, y_train)

print("best options:", {name.removeprefix("lm__"): value for name, value in search.best_params_.items()})
print(f"R2 in cross-validation: {search.best_score_:.3f}")
print(f"R2 on the test rows:    {search.score(X_test, y_test):.3f}")

# %%
# What matters
# ------------
# A panel a penalty; the score over damping and batch size. ``cv_results_`` lists the candidates with the last name of
# the grid (in alphabetical order) changing fastest.

alphas, batches, dampings = grid.values()
scores = search.cv_results_["mean_test_score"].reshape(len(alphas), len(batches), len(dampings))

figure, panels = plt.subplots(1, len(alphas), figsize=(9, 3.4), sharey=True, layout="constrained")
for alpha, table, axes in zip(alphas, scores, panels, strict=True):
    image = axes.imshow(table, vmin=scores.min(), vmax=scores.max(), cmap="viridis")
    for row, column in np.ndindex(table.shape):
        dark = table[row, column] < scores.mean()
        axes.text(column, row, f"{table[row, column]:.2f}", ha="center", va="center", color="w" if dark else "k")
    axes.set_xticks(range(len(dampings)), [f"{damping:g}" for damping in dampings])
    axes.set_yticks(range(len(batches)), ["all" if batch is None else str(batch) for batch in batches])
    axes.set(xlabel="first damping", title=f"alpha = {alpha:g}")
panels[0].set_ylabel("rows of a step")
figure.colorbar(image, ax=panels, label="mean R2 of 3 folds")
best = search.best_params_
place = dampings.index(best["lm__damping"]), batches.index(best["lm__batch_size"])
panels[alphas.index(best["lm__alpha"])].plot(*np.add(place, (0, 0.28)), "r*", ms=12)
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=120)
plt.show()
