"""
A small convolutional network on digits
=======================================

1797 handwritten digits of 8 x 8 pixels come with scikit-learn. A :class:`sklm.CNN` with four filters is trained by
:class:`sklm.LMClassifier`, and compared with scikit-learn's ``MLPClassifier`` on digits that neither has seen.
"""

import sys
import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from threadpoolctl import threadpool_limits

from sklm import CNN, LMClassifier

threadpool_limits(1)  # so that the example takes as long beside other work

# %%
# Data
# ----
# A row of X is an image, pixel row by pixel row. The network scales the pixels itself, all alike.

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.4, stratify=y, random_state=0)

# %%
# Two networks
# ------------
# Four filters of 3 x 3 pixels, means over 2 x 2 windows, and the output layer: 690 parameters. ``tol`` ends the fit
# early: less than 5 % in five steps. Single precision is enough for that and takes about half the time.
# ``MLPClassifier`` has its default 100 units and 7510 parameters, and more epochs than by default. The two are about
# equally good: on 719 digits a share of right answers is uncertain by 0.005. The convolutions need a tenth of the
# parameters for that, and more time.

cnn = CNN(conv_channels=4, kernel_size=3, stride=1, padding=1, pooling="average", input_shape=(1, 8, 8))
classifiers = {
    # a search for alpha, which the default is, would take as long as three fits
    "LMClassifier, CNN": LMClassifier(
        architecture=cnn, alpha=1 / len(X_train), tol=0.05, n_iter_no_change=5, dtype="float32", random_state=0
    ),
    "MLPClassifier": make_pipeline(MinMaxScaler(), MLPClassifier(max_iter=500, random_state=0)),
}

print(f"{'':20}{'parameters':>11}{'seconds':>9}{'right answers':>15}{'log-loss':>10}   on {len(y_test)} unseen digits")
for name, model in classifiers.items():
    start = time.perf_counter()
    model.fit(X_train, y_train)
    seconds = time.perf_counter() - start
    if name == "MLPClassifier":
        size = sum(part.size for part in model[-1].coefs_ + model[-1].intercepts_)
    else:
        size = len(model.theta_)
    loss = log_loss(y_test, model.predict_proba(X_test))
    print(f"{name:20}{size:11d}{seconds:9.1f}{model.score(X_test, y_test):15.3f}{loss:10.3f}")

# %%
# What the network learned, and where it is wrong
# -----------------------------------------------
# ``to_module`` returns the fitted network as a torch module, whose second part is the convolution (the scaling of the
# pixels goes first).

lm = classifiers["LMClassifier, CNN"]
print(f"\n{lm.n_iter_} iterations: {lm.message_}")
filters = next(part for part in lm.to_module().modules() if hasattr(part, "kernel_size")).weight.detach()[:, 0]
probability = lm.predict_proba(X_test)
predicted = lm.predict(X_test)
wrong = np.flatnonzero(predicted != y_test)
wrong = wrong[np.argsort(probability[wrong, y_test[wrong]])][:8]  # the most surprising first

figure = plt.figure(figsize=(10, 4.4), layout="constrained")
curve, right = figure.subfigures(1, 2, width_ratios=[1, 1.5])
axes = curve.subplots()
axes.semilogy(1 + np.arange(lm.n_iter_), lm.loss_curve_, "o-", ms=3, label="LMClassifier, CNN")
epochs = classifiers["MLPClassifier"][-1].loss_curve_
axes.semilogy(1 + np.arange(len(epochs)), epochs, label="MLPClassifier (epochs)")
axes.set(xscale="log", xlabel="iteration", ylabel="training log-loss", title="Progress")
axes.legend(fontsize="small")

above, below = right.subfigures(2, 1, height_ratios=[1, 2])
above.suptitle("The four filters (blue: positive, red: negative)", fontsize="medium")
limit = filters.abs().max()
for axes, pixels in zip(above.subplots(1, 4), filters, strict=True):
    axes.imshow(pixels, cmap="RdBu", vmin=-limit, vmax=limit)
    axes.set_axis_off()
below.suptitle("Misread digits: right → read, probability of the right one", fontsize="medium")
for axes in (panels := below.subplots(2, 4)).flat:
    axes.set_axis_off()
for axes, index in zip(panels.flat, wrong, strict=False):
    axes.imshow(X_test[index].reshape(8, 8), cmap="gray_r")
    title = f"{y_test[index]} → {predicted[index]}, {probability[index, y_test[index]]:.2f}"
    axes.set_title(title, fontsize="small")
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=120)
plt.show()
