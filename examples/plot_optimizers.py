"""
Does Levenberg-Marquardt win?
=============================

The parameter ``optimizer`` trains the same network, from the same start, by other means: L-BFGS with two line searches,
Adam and SGD. Here they race on a curve without noise, where Levenberg-Marquardt wins, and on pictures of digits, where
one of its iterations gains much and takes as long as thirty of L-BFGS, which wins.
"""

import sys
import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from sklm import LMClassifier, LMRegressor
from sklm.optim import SGD, Adam

warnings.simplefilter("ignore", ConvergenceWarning)  # all fits below end at a time limit, on purpose
threadpool_limits(1)  # the matrices below are too small to share between processor cores

# %%
# Two problems
# ------------
# The curve is ``sinc(10 x)`` at 500 points, for 20 tanh units (61 parameters), the squared error and the best of four
# starts. The digits are
# 600 pictures of 8 x 8 pixels, for 5 units (385 parameters) and the log-loss with its default penalty.

x = np.linspace(-1, 1, 500).reshape(-1, 1)
pixels, digits = load_digits(return_X_y=True)
problems = {
    "sinc(10 x), squared error": (LMRegressor(20, n_init=4, random_state=0), x, np.sinc(10 * x[:, 0]), 0.4),
    "digits, log-loss": (LMClassifier(5, random_state=0), pixels[:600], digits[:600], 0.6),
}

# %%
# Five optimizers
# ---------------
# Adam and SGD have rates that suit these two problems, and batches of 200 rows, the default. An iteration of theirs is
# an epoch.

optimizers = {
    "lm": "lm",
    "lbfgs": "lbfgs",
    "lbfgs_armijo": "lbfgs_armijo",
    "adam": Adam(learning_rate=0.01),
    "sgd": SGD(learning_rate=0.1),
}


class Clock:
    """A scikit-learn callback that notes the time after every iteration."""

    def setup(self, estimator, context):
        self.began, self.seconds = time.perf_counter(), []

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        if context.task_name == "iteration":
            self.seconds.append(time.perf_counter() - self.began)

    def teardown(self, estimator, context):
        pass


# %%
# The race
# --------
# ``tol=0`` keeps all of them going until the time is up, or until nothing gets better. Lines are the training loss of
# the best model so far.

figure, panels = plt.subplots(2, 2, figsize=(10, 7), layout="constrained", sharey="row")
print(f"{'':28}{'optimizer':14}{'iterations':>11}{'seconds':>9}{'training loss':>15}{'stopped by':>12}")
for row, (title, (model, X, y, limit)) in zip(panels, problems.items(), strict=True):
    for colour, (name, optimizer) in enumerate(optimizers.items()):
        clock = Clock()
        model.set_params(optimizer=optimizer, growing=False, tol=0.0, n_iter_no_change=10**6)
        model.set_params(max_iter=10**5, max_time=limit).set_callbacks(clock).fit(X, y)
        best = np.minimum.accumulate(model.loss_curve_)
        row[0].loglog(1 + np.arange(len(best)), best, color=f"C{colour}", label=name)
        row[1].loglog(clock.seconds[: len(best)], best, color=f"C{colour}", label=name)
        print(
            f"{title:28}{name:14}{model.n_iter_:11d}{clock.seconds[-1]:9.2f}{model.loss_:15.1e}{model.status_:>12}",
            flush=True,
        )
    row[0].set(xlabel="iteration", ylabel="training loss", title=title)
    row[1].set(xlabel="seconds", title=title)
    row[0].legend(fontsize="small")
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=100)
plt.show()
