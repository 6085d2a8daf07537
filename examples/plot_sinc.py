"""
Levenberg-Marquardt against Adam and L-BFGS
===========================================

The same network with 20 tanh units, 61 weights in all, is fitted to 1000 points of ``sinc(10 x)`` by
:class:`sklm.LMRegressor` and by scikit-learn's ``MLPRegressor``. Then both predict a small real data set in
cross-validation. Run as a script, it prints two tables and writes ``sinc.png`` into the current folder.
"""

import sys
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from sklm import LMRegressor

warnings.simplefilter("ignore", ConvergenceWarning)  # most fits below end at their iteration limit, on purpose
threadpool_limits(1)  # the matrices below are too small to share between processor cores

# %%
# A curve without noise
# ---------------------
# ``np.sinc(10 x)`` is ``sin(10 pi x) / (10 pi x)``. ``LMRegressor`` has its default options, but for the number of
# iterations; it makes four starts and keeps the best. ``MLPRegressor`` gets what helps it: standardised X and y, no
# penalty, two seeds of which the best counts, 5000 steps with a raised learning rate for Adam, and up to
# 5000 iterations for L-BFGS.

X = np.linspace(-1, 1, 1000).reshape(-1, 1)
y = np.sinc(10 * X[:, 0])

lm = LMRegressor(hidden_layer_sizes=20, max_iter=300, random_state=0).fit(X, y)

options = {
    "adam": {"batch_size": 200, "learning_rate_init": 0.02, "max_iter": 1000, "n_iter_no_change": 1000},
    "lbfgs": {"max_iter": 5000, "max_fun": 50_000},
}
X_scaled, y_scaled = X / X.std(), (y - y.mean()) / y.std()
rivals = {}
for solver in options:
    seeds = [
        MLPRegressor(
            hidden_layer_sizes=20,
            activation="tanh",
            solver=solver,
            alpha=0,
            tol=0,
            random_state=seed,
            **options[solver],
        ).fit(X_scaled, y_scaled)
        for seed in range(2)
    ]
    rivals[solver] = min(seeds, key=lambda model: model.loss_)

errors = {"LMRegressor": lm.predict(X) - y}
for solver, model in rivals.items():
    errors[f"MLPRegressor, {solver}"] = model.predict(X_scaled) * y.std() + y.mean() - y
iterations = [lm.n_iter_, *(model.n_iter_ for model in rivals.values())]

print("sinc(10 x), 1000 points, 1-20-1 tanh network, on the training points")
print(f"{'':22}{'iterations':>12}{'MSE':>12}{'largest error':>16}{'1 - R2':>12}")
for (name, error), n_iter in zip(errors.items(), iterations, strict=True):
    mse = np.mean(error**2)
    print(f"{name:22}{n_iter:12d}{mse:12.1e}{np.abs(error).max():16.1e}{mse / y.var():12.1e}")

# %%
# The training loss is half the mean squared error, in squared units of y. ``MLPRegressor`` has no loss curve for
# L-BFGS: the line shows where it ended.

colours = {"LMRegressor": "C0", "MLPRegressor, adam": "C1", "MLPRegressor, lbfgs": "C2"}
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
for name, error in errors.items():
    left.semilogy(X[:, 0], np.abs(error), color=colours[name], lw=1, label=name)
left.set(xlabel="x", ylabel="|error|", title="sinc(10 x): error of the fit", ylim=(1e-9, 1))
left.legend(loc="upper right", ncols=3, fontsize="small", columnspacing=1)

right.loglog(1 + np.arange(lm.n_iter_), lm.loss_curve_, color="C0", label="LMRegressor")
adam_curve = np.array(rivals["adam"].loss_curve_) * y.var()
right.loglog(1 + np.arange(len(adam_curve)), adam_curve, color="C1", label="MLPRegressor, adam (epochs)")
right.axhline(
    rivals["lbfgs"].loss_ * y.var(),
    color="C2",
    ls="--",
    label=f"MLPRegressor, lbfgs, after {rivals['lbfgs'].n_iter_} iterations",
)
right.set(xlabel="iteration", ylabel="training loss", title="Progress", ylim=(1e-9, 1))
right.legend(loc="upper right", fontsize="small")
figure.savefig("sinc.png", dpi=120)

# %%
# Real, noisy data
# ----------------
# The diabetes data: 442 patients, 10 columns, and mostly noise, so that ``alpha`` decides. All networks have five
# hidden units. ``LMRegressor`` finds ``alpha`` by leaving rows out. For ``MLPRegressor``, a grid search inside each of
# five folds does; there ``alpha`` is divided by the number of rows.

X, y = load_diabetes(return_X_y=True)
outer = KFold(5, shuffle=True, random_state=0)
inner = KFold(3, shuffle=True, random_state=1)
alphas = np.array([0.03, 0.1])


def scaled_mlp(solver):
    """MLPRegressor with X and y standardised."""
    network = MLPRegressor(
        hidden_layer_sizes=5, activation="tanh", solver=solver, learning_rate_init=0.01, max_iter=300, random_state=0
    )
    return TransformedTargetRegressor(make_pipeline(StandardScaler(), network), transformer=StandardScaler())


n_rows = len(y) * 4 / 5 * 2 / 3  # of an inner training set
searches = {"LMRegressor": LMRegressor(hidden_layer_sizes=5, random_state=0)}
for solver in ("adam", "lbfgs"):
    searches[f"MLPRegressor, {solver}"] = GridSearchCV(
        scaled_mlp(solver), {"regressor__mlpregressor__alpha": alphas * n_rows}, cv=inner
    )

print("\nDiabetes, R2 on unseen rows, 5 folds, alpha chosen inside each fold")
for name, search in searches.items():
    scores = cross_val_score(search, X, y, cv=outer)
    print(f"{name:22}{scores.mean():8.3f} +- {scores.std():.3f}")

if "--show" in sys.argv:
    plt.show()
