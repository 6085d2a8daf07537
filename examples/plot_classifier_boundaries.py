"""
Probabilities of three classifiers
==================================

:class:`sklm.LMClassifier` against scikit-learn's ``MLPClassifier`` and ``LogisticRegression`` on three small sets of
two columns. Each is fitted on 200 rows and judged on 2000 others, by the share of right answers and by the log-loss,
which asks for honest probabilities.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from sklearn.datasets import make_blobs, make_circles, make_moons
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from sklm import LMClassifier

threadpool_limits(1)  # the matrices below are too small to share between processor cores

# %%
# Data
# ----
# The classes overlap in all three, so that no classifier is always right. The blobs have three classes.

sets = {
    "moons": make_moons(2200, noise=0.3, random_state=0),
    "circles": make_circles(2200, noise=0.2, factor=0.4, random_state=0),
    "three blobs": make_blobs(2200, centers=[[-1, 0], [1, 0], [0, 1.5]], cluster_std=[0.6, 0.9, 0.7], random_state=0),
}

# %%
# Classifiers
# -----------
# All have their default options, and nothing is tuned. ``LMClassifier`` has 20 tanh units and a prior of deviation one
# on every weight, and it standardises X itself. ``MLPClassifier`` has 100 relu units and Adam; it gets standardised X
# and as many epochs as it wants. Other options change the order: on the moons, ``MLPClassifier(alpha=0.01)`` reaches a
# log-loss of 0.23.

classifiers = {
    "LMClassifier": LMClassifier(random_state=0),
    "MLPClassifier": make_pipeline(StandardScaler(), MLPClassifier(max_iter=2000, random_state=0)),
    "LogisticRegression": LogisticRegression(),
}

# %%
# Fits and pictures
# -----------------
# The background mixes the colours of the classes by their probabilities. The lines are at probabilities of 0.1, 0.5
# and 0.9 of class one, and for three classes where the most probable one changes. The dots are the rows that were
# fitted.

colours = np.array([to_rgb(name) for name in ("tab:blue", "tab:orange", "tab:green")])


def show(axes, model, X, y, area):
    """Probabilities on a grid over ``area`` (left, right, bottom, top), and the rows X, y."""
    first, second = np.meshgrid(np.linspace(*area[:2], 150), np.linspace(*area[2:], 150))
    probability = model.predict_proba(np.column_stack([first.ravel(), second.ravel()]))
    mixed = probability @ colours[: probability.shape[1]]
    image = (1 - 0.55 * (1 - mixed)).reshape(150, 150, 3)
    axes.imshow(image, origin="lower", extent=area, aspect="auto", interpolation="bilinear")
    if probability.shape[1] == 2:
        levels, styles = [0.1, 0.5, 0.9], ["dotted", "solid", "dotted"]
        lines = probability[:, 1].reshape(first.shape)
        axes.contour(first, second, lines, levels, colors="0.2", linewidths=1, linestyles=styles)
    else:
        for k, own in enumerate(probability.T):
            lead = own - np.delete(probability, k, axis=1).max(axis=1)
            axes.contour(first, second, lead.reshape(first.shape), [0.0], colors="0.2", linewidths=1)
    axes.scatter(X[:, 0], X[:, 1], s=9, color=colours[y], edgecolor="white", linewidth=0.4)
    axes.set(xlim=area[:2], ylim=area[2:], xticks=[], yticks=[])


figure, panels = plt.subplots(3, 3, figsize=(9, 8.6), layout="constrained")
print(f"{'':14}{'':20}{'right answers':>14}{'log-loss':>10}   on 2000 unseen rows")
for row, (set_name, (X, y)) in zip(panels, sets.items(), strict=True):
    X_train, X_test, y_train, y_test = train_test_split(X, y, train_size=200, random_state=1, stratify=y)
    low, high = X_train.min(axis=0) - 0.3, X_train.max(axis=0) + 0.3
    for axes, (name, model) in zip(row, classifiers.items(), strict=True):
        model.fit(X_train, y_train)
        loss = log_loss(y_test, model.predict_proba(X_test))
        print(f"{set_name:14}{name:20}{model.score(X_test, y_test):14.3f}{loss:10.3f}")
        show(axes, model, X_train, y_train, (low[0], high[0], low[1], high[1]))
        axes.set_title(f"{name}, log-loss {loss:.3f}", fontsize="medium")
    row[0].set_ylabel(set_name, fontsize="large")
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=120)
plt.show()
