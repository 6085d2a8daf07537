"""Seconds to 97.6 % test accuracy on MNIST with a CNN of 1026 parameters, against torch-levenberg-marquardt.

    SKLM_MNIST=path/to/folder python tests/benchmarks/mnist.py --seeds 3

The folder holds the four original idx files, gzipped. Same rules for both: pixels in [0, 1], time counts training only,
accuracy on the test set after every epoch, time to the target is that of the first epoch at or above it, median over
seeds. On a machine with other work, ``OMP_NUM_THREADS=1`` and ``--clock processor`` count the processor time of one
thread instead. ``LMClassifier`` has default options but for the architecture, ``dtype='float32'`` (as the rival) and a
time limit; the rival has the settings of its own example (batches of 5000, square root of the cross-entropy, learning
rate 0.05, Cholesky, 8 epochs).
"""

import argparse
import gzip
import logging
import os
import pathlib
import statistics
import time
import warnings

import numpy as np
import torch

from sklm import CNN, LMClassifier

RIVAL_BATCH = 5000
CLOCK = time.perf_counter


def read(name):
    with gzip.open(pathlib.Path(os.environ["SKLM_MNIST"]) / f"{name}-ubyte.gz") as file:
        raw = file.read()
    shape = np.frombuffer(raw, ">i4", raw[3], 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


class Watch:
    """A scikit-learn callback that notes training time and test accuracy after every iteration."""

    def __init__(self, X, y):
        self.X, self.y, self.seconds, self.curve = X, y, 0.0, []

    def setup(self, estimator, context):
        self.began = CLOCK()

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        if context.task_name == "iteration":
            self.seconds += CLOCK() - self.began
            self.curve.append((self.seconds, fitted_estimator.score(self.X, self.y)))
            self.began = CLOCK()
        return False

    def teardown(self, estimator, context):
        pass


def ours(seed, data, seconds, **options):
    X, y, X_test, y_test = data
    network = CNN((8, 4, 4, 4, 4), kernel_size=(4, 4, 2, 2, 2), stride=(2, 2, 1, 1, 1), input_shape=(1, 28, 28))
    model = LMClassifier(architecture=network, dtype="float32", max_time=seconds, random_state=seed, **options)
    watch = Watch(X_test, y_test)
    began = CLOCK()
    model.set_callbacks(watch).fit(X, y)
    print(f"  fit {CLOCK() - began:.1f} s, {model.n_iter_} epochs, {model.status_}", flush=True)
    return watch.curve


def rival(seed, data, epochs):
    import torch_levenberg_marquardt as tlm

    X, y, X_test, y_test = (torch.from_numpy(array) for array in data)
    X, X_test = X.float().view(-1, 1, 28, 28), X_test.float().view(-1, 1, 28, 28)
    torch.manual_seed(seed)
    nn, parts, channels = torch.nn, [], 1
    for filters, kernel, stride in ((8, 4, 2), (4, 4, 2), (4, 2, 1), (4, 2, 1), (4, 2, 1)):
        parts += [nn.Conv2d(channels, filters, kernel, stride), nn.ELU()]
        channels = filters
    net = nn.Sequential(*parts, nn.Flatten(), nn.Linear(16, 10))
    training = tlm.training.LevenbergMarquardtModule(
        model=net,
        loss_fn=tlm.loss.CrossEntropyLoss(),
        learning_rate=0.05,
        attempts_per_step=10,
        solve_method="cholesky",
    )
    seconds, curve = 0.0, []
    for _ in range(epochs):
        order = torch.randperm(len(X))
        began = CLOCK()
        for start in range(0, len(X), RIVAL_BATCH):
            batch = order[start : start + RIVAL_BATCH]
            training.training_step(X[batch], y[batch])
        seconds += CLOCK() - began
        with torch.no_grad():
            curve.append((seconds, float((net(X_test).argmax(1) == y_test).float().mean())))
    return curve


def first(curve, target):
    return next((seconds for seconds, accuracy in curve if accuracy >= target), float("inf"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--target", type=float, default=0.976)
    parser.add_argument("--time", type=float, default=22.0, help="seconds of LMClassifier")
    parser.add_argument("--rival-epochs", type=int, default=8)
    parser.add_argument("--no-rival", action="store_true")
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall")
    args = parser.parse_args()
    if args.clock == "processor":
        CLOCK = time.process_time
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    X, X_test = (read(f"{part}-images-idx3").reshape(-1, 784) / 255.0 for part in ("train", "t10k"))
    y, y_test = (read(f"{part}-labels-idx1").astype(np.int64) for part in ("train", "t10k"))
    data, times = (X, y, X_test, y_test), {}
    for seed in range(args.seeds):
        curves = {"LMClassifier": ours(seed, data, args.time)}
        if not args.no_rival:
            curves["torch-levenberg-marquardt"] = rival(seed, data, args.rival_epochs)
        for name, curve in curves.items():
            times.setdefault(name, []).append(first(curve, args.target))
            shown = ", ".join(f"{seconds:.1f} s {accuracy:.4f}" for seconds, accuracy in curve)
            print(f"seed {seed}, {name}: {shown}", flush=True)
    for name, seconds in times.items():
        print(f"{name}: {[round(s, 2) for s in seconds]}, median {statistics.median(seconds):.2f} s to {args.target}")
