"""
Damping, penalty and batch size in a grid search
================================================

:class:`sklm.LMRegressor` is a step of a scikit-learn pipeline like any other, and ``GridSearchCV`` reaches all of its
options. Here the data are noisy: the penalty ``alpha`` matters most. Where it is well chosen, the batch size and the
first damping change little; where it is too small, the network follows the noise, and which noise it follows depends
on the path it takes.
"""

import sys
import warnings

import matplotlib.pyplot as plt
from sklearn.datasets import make_friedman1
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import PolynomialFeatures
from threadpoolctl import threadpool_limits

from sklm import LMRegressor

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
        ("lm", LMRegressor(hidden_layer_sizes=4, n_init=1, max_iter=30, random_state=0)),
    ]
)

# %%
# Search
# ------
# ``batch_size=None`` takes all rows at every step.

grid = {
    "lm__damping": [1e-3, 1e-1, 10.0],
    "lm__alpha": [1e-4, 1e-3, 1e-2, 1e-1],
    "lm__batch_size": [None, 200],
}
search = GridSearchCV(pipeline, grid, cv=3).fit(X_train, y_train)

print("best options:", {name.removeprefix("lm__"): value for name, value in search.best_params_.items()})
print(f"R2 in cross-validation: {search.best_score_:.3f}")
print(f"R2 on the test rows:    {search.score(X_test, y_test):.3f}")

# %%
# What matters
# ------------
# One line a pair of damping and batch size, over alpha.

results = search.cv_results_
scores = {
    (batch, damping): [
        results["mean_test_score"][
            results["params"].index({"lm__alpha": alpha, "lm__batch_size": batch, "lm__damping": damping})
        ]
        for alpha in grid["lm__alpha"]
    ]
    for batch in grid["lm__batch_size"]
    for damping in grid["lm__damping"]
}

figure, axes = plt.subplots(figsize=(9, 4.2), layout="constrained")
styles = {None: "-", 200: "--"}
print(f"\n{'batch_size':12}{'damping':>9}" + "".join(f"{f'alpha={a:g}':>14}" for a in grid["lm__alpha"]))
for (batch, damping), line in scores.items():
    colour = f"C{grid['lm__damping'].index(damping)}"
    label = f"{'all rows' if batch is None else f'{batch} rows'}, damping {damping:g}"
    axes.semilogx(grid["lm__alpha"], line, "o", ls=styles[batch], color=colour, label=label, ms=4)
    print(f"{'all rows' if batch is None else batch!s:12}{damping:9g}" + "".join(f"{value:14.3f}" for value in line))
best = search.best_params_
axes.plot(best["lm__alpha"], search.best_score_, "k*", ms=12, label="chosen", zorder=3)
axes.set(xlabel="alpha", ylabel="mean R2 of 3 folds", title="Friedman #1 with noise, products of columns as inputs")
figure.legend(loc="outside right center", fontsize="small")
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=120)
plt.show()
