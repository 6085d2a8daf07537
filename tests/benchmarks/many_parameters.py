"""Networks with many parameters: peak memory and time of an iteration, against torch-levenberg-marquardt and Adam.

python tests/benchmarks/many_parameters.py          # everything
python tests/benchmarks/many_parameters.py dual 442 1000   # one row of the first table: units, rows
python tests/benchmarks/many_parameters.py cg 310 100000 --seconds 300   # one row of the second

torch-levenberg-marquardt is run where it is installed, as its description recommends for more parameters than rows
(full batch, QR; and with its Cholesky). Every run is a process of its own, so that its peak is its own.
"""

import argparse
import importlib.util
import resource
import subprocess
import sys
import time
import warnings
from itertools import pairwise

import numpy as np
import torch

from sklm import LMRegressor

N_FEATURES = 10


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def data(n_samples):
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (n_samples, N_FEATURES))
    return X, np.sin(3 * X[:, 0]) * X[:, 1] + X[:, 2] ** 2 + np.tanh(4 * X[:, 3] * X[:, 4])


def fit_sklm(solver, units, n_samples, max_iter=6):
    """Print time of an iteration, and the peak before and after a few of two hidden layers of ``units`` each."""
    X, y = data(n_samples)
    LMRegressor(5, max_iter=2, n_init=1).fit(X[:100], y[:100])
    seen = []
    before = peak_mib()
    model = LMRegressor((units, units), solver=solver, max_iter=max_iter, n_init=1, growing=False, random_state=0)
    model._printers = lambda: [lambda progress: seen.append(time.perf_counter())]
    model.fit(X, y)
    jacobian = 8 * n_samples * model.theta_.size / 2**20
    extra = peak_mib() - before
    print(
        f"| sklm, {solver} | {model.theta_.size} | {n_samples} | {np.median(np.diff(seen)):.2f} | {before:.0f} "
        f"| {extra:.0f} | {extra / jacobian:.1%} | {model.loss_curve_[0]:.3g} to {model.loss_curve_[-1]:.3g} |"
    )


def fit_other(method, units, n_samples, max_iter=3):
    """The same with torch-levenberg-marquardt: its own training step on all rows, in double precision."""
    import torch_levenberg_marquardt as tlm

    X, y = data(n_samples)
    sizes = [N_FEATURES, units, units, 1]
    torch.manual_seed(0)
    layers = [torch.nn.Linear(a, b, dtype=torch.float64) for a, b in pairwise(sizes)]
    model = torch.nn.Sequential(layers[0], torch.nn.Tanh(), layers[1], torch.nn.Tanh(), layers[2])
    X, y = torch.tensor(X), torch.tensor((y - y.mean()) / y.std())[:, None]
    module = tlm.training.LevenbergMarquardtModule(
        model=model, loss_fn=tlm.loss.MSELoss(), learning_rate=1.0, attempts_per_step=10, solve_method=method
    )
    before, seen, losses = peak_mib(), [time.perf_counter()], []
    for _ in range(max_iter):
        losses.append(float(module.training_step(X, y)[1]))
        seen.append(time.perf_counter())
    n_parameters = sum(p.numel() for p in model.parameters())
    extra = peak_mib() - before
    print(
        f"| torch-levenberg-marquardt, {method} | {n_parameters} | {n_samples} | {np.median(np.diff(seen)):.2f} "
        f"| {before:.0f} | {extra:.0f} | {extra / (8 * n_samples * n_parameters / 2**20):.1%} "
        f"| {losses[0]:.3g} to {losses[-1]:.3g} |"
    )


def race(method, units, n_samples, seconds):
    """Print the training loss (half the mean square, of standardised targets) that a time limit leaves, and the peak.

    ``auto`` has default options (but ``dtype`` and the time limit),
    ``cg`` is all rows at every step, ``cg-5000`` and ``dual-1000`` mini-batches of so many, ``adam`` Adam on batches of
    256 rows with a learning rate of 1e-3 that falls to zero along a cosine. All in single precision.
    """
    X, y = data(n_samples)
    y = (y - y.mean()) / y.std()
    before = peak_mib()
    if method == "adam":
        loss, steps = adam(X, y, units, seconds)
    else:
        solver, _, batch = method.partition("-")
        model = LMRegressor(
            (units, units),
            solver=solver,
            **({} if solver == "auto" else {"batch_size": int(batch) if batch else None, "batch_memory": None}),
            max_time=seconds,
            random_state=0,
            dtype="float32",
            max_iter=10**6,
        ).fit(X, y)
        loss, steps = 0.5 * np.mean((model.predict(X) - y) ** 2), model.n_iter_
    print(f"| {method} | {n_samples} | {seconds} | {steps} | {loss:.3g} | {peak_mib() - before:.0f} |", flush=True)


def adam(X, y, units, seconds, batch=256):
    """Loss on all rows and number of steps."""
    torch.manual_seed(0)
    X = torch.tensor((X - X.mean(0)) / X.std(0), dtype=torch.float32)
    y = torch.tensor(y, dtype=torch.float32)[:, None]
    sizes = [N_FEATURES, units, units, 1]
    layers = [torch.nn.Linear(a, b) for a, b in pairwise(sizes)]
    model = torch.nn.Sequential(layers[0], torch.nn.Tanh(), layers[1], torch.nn.Tanh(), layers[2])
    optimizer, began, steps = torch.optim.Adam(model.parameters(), 1e-3), time.perf_counter(), 0
    while (share := (time.perf_counter() - began) / seconds) < 1:
        for index in torch.randperm(len(X)).split(batch):
            share = min((time.perf_counter() - began) / seconds, 1.0)
            optimizer.param_groups[0]["lr"] = 1e-3 * 0.5 * (1 + np.cos(np.pi * share))
            optimizer.zero_grad()
            (0.5 * (model(X[index]) - y[index]).square().mean()).backward()
            optimizer.step()
            steps += 1
            if share >= 1:
                break
    with torch.no_grad():
        return float(0.5 * (model(X) - y).square().mean()), steps


def table():
    print("| solver | parameters | rows | s an iteration | MiB before | MiB more at the peak | of J | loss |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    runs = [("dual", 442, 1000), ("dual", 995, 2000)]
    if importlib.util.find_spec("torch_levenberg_marquardt"):
        runs[1:1] = [("tlm-qr", 442, 1000), ("tlm-cholesky", 442, 1000)]
    for run in runs:
        subprocess.run([sys.executable, __file__, *map(str, run)], check=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("solver", nargs="?")
    parser.add_argument("units", nargs="?", type=int)
    parser.add_argument("rows", nargs="?", type=int)
    parser.add_argument("--seconds", type=float, help="race within this time: auto, cg, cg-ROWS, dual-ROWS or adam")
    args = parser.parse_args()
    if args.solver is None:
        table()
    elif args.seconds is not None:
        race(args.solver, args.units, args.rows, args.seconds)
    elif args.solver.startswith("tlm-"):
        fit_other(args.solver.removeprefix("tlm-"), args.units, args.rows)
    else:
        fit_sklm(args.solver, args.units, args.rows)
