"""Milliseconds of an iteration on the CPU, on a GPU, and on a GPU with iterations recorded as graphs.

    python tests/benchmarks/gpu.py [--devices cpu cuda] [--scale 1.0]

Float64, one hidden layer of tanh units, geodesic steps: the slope between a short and a longer fit, least of three. The
contests are one and 1000 fits of the 1-20-1 net (61 parameters, 200 rows each), and single fits of 10-167-1 (2005
parameters) and of 10-833-1 (9997 parameters), 20 000 rows. With ``SKLM_MNIST=folder`` also seconds to 97.6 % on MNIST,
as ``mnist.py`` measures them (mini-batches, which are not recorded; without the rival). ``--scale`` shortens the tables
of rows, to try the script.
"""

import argparse
import os
import platform
import time
import warnings

import numpy as np
import torch

from sklm import MLP
from sklm.losses import SquaredError
from sklm.optim import Stopping, _graph, levenberg_marquardt, make_problem

NEVER = 10**9
#: title: rows, inputs, units, models, iterations timed
CONTESTS = {
    "1 fit, P = 61, 200 rows": (200, 1, 20, 1, 64),
    "1000 fits, P = 61, 200 rows": (200, 1, 20, 1000, 64),
    "1 fit, P = 2005, 20 000 rows": (20_000, 10, 167, 1, 8),
    "1 fit, P = 9997, 20 000 rows": (20_000, 10, 833, 1, 3),
}


def milliseconds(device, rows, n_inputs, units, n_models, iterations, graphs):
    """Of an iteration of all models together."""
    rng = np.random.default_rng(0)
    X = torch.tensor(rng.uniform(-1, 1, (rows, n_inputs)), device=device)
    y = torch.sinc(4 * X.sum(1, keepdim=True) / n_inputs**0.5)
    network = MLP(units).build(n_inputs, 1)
    theta = torch.tensor(rng.normal(size=(n_models, network.n_parameters)) * 0.5, device=device)
    problem = make_problem(network, SquaredError(), X, y, n_models=n_models)

    def seconds(max_iter):
        stopping = Stopping(max_iter=max_iter, tol=0.0, n_iter_no_change=NEVER, gradient_tol=0.0)
        began = time.perf_counter()
        levenberg_marquardt(problem, theta, acceleration="geodesic", stopping=stopping)
        return time.perf_counter() - began

    _graph.RECORD_AFTER = 8 if graphs else NEVER
    short = 16 if device.type != "cpu" else 2
    seconds(short)
    return 1e3 * min((seconds(short + iterations) - seconds(short)) / iterations for _ in range(3))


def mnist(device):
    """Seconds of training until 97.6 % of the test images are right."""
    import mnist as script

    X, X_test = (script.read(f"{part}-images-idx3").reshape(-1, 784) / 255.0 for part in ("train", "t10k"))
    y, y_test = (script.read(f"{part}-labels-idx1").astype(np.int64) for part in ("train", "t10k"))
    curve = script.ours(0, (X, y, X_test, y_test), 60.0, device=device.type, max_iter=4)
    return script.first(curve, 0.976)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", nargs="+", default=["cpu", "cuda"])
    parser.add_argument("--scale", type=float, default=1.0)
    args = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"{platform.machine()}, {torch.get_num_threads()} threads; {name}; torch {torch.__version__}\n")
    columns = [
        (device, graphs) for device in args.devices for graphs in ((False, True) if device != "cpu" else (False,))
    ]
    print("| | " + " | ".join(device + (" with graphs" if graphs else "") for device, graphs in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for title, (rows, *shape) in CONTESTS.items():
        rows = max(int(rows * args.scale), 50)
        times = [milliseconds(torch.device(device), rows, *shape, graphs) for device, graphs in columns]
        print(f"| {title}, ms | " + " | ".join(f"{value:.3g}" for value in times) + " |", flush=True)
    if "SKLM_MNIST" in os.environ:
        times = ["" if graphs else f"{mnist(torch.device(device)):.2f}" for device, graphs in columns]
        print("| MNIST to 97.6 %, s | " + " | ".join(times) + " |")
