"""Rate at which rows and Gauss-Newton matrix are made, as a share of the machine's own matrix products.

    python tests/benchmarks/accumulation.py                  # one thread, then all cores
    python tests/benchmarks/accumulation.py --threads 1 --clock processor

One linearisation as the engine does it for ``solver='cholesky'``, in float64 and chunks of the default size: rows of
the Jacobian and their symmetric product, with the forward pass and without it. Counted are N R P^2 floating-point
operations, half of a general product; what it takes to make the rows is not counted. The machine's rate is that of the
fastest of several square products in the same run. A product that ignores the symmetry is at 50 % at most.
"""

import argparse
import os
import time

import numpy as np
import torch

from sklm import MLP
from sklm.architectures import Inputs
from sklm.losses import SquaredError
from sklm.optim import make_problem
from sklm.optim._curvature import Workspace, linearise
from sklm.optim._solvers import Cholesky

#: name: hidden layers, inputs, outputs, rows
NETS = {
    "1-20-1": ((20,), 1, 1, 200_000),
    "10-41-1": ((41,), 10, 1, 100_000),
    "10-40-40-1": ((40, 40), 10, 1, 50_000),
    "10-64-64-1": ((64, 64), 10, 1, 5_000),
    "10-20-10": ((20,), 10, 10, 10_000),
    "10-40-40-10": ((40, 40), 10, 10, 2_000),
}
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def fastest(function, clock, repeats):
    function()
    times = []
    for _ in range(repeats):
        began = clock()
        function()
        times.append(clock() - began)
    return min(times)


def machine_rate(clock, repeats):
    """Operations a second of the fastest square product in float64."""
    rates = []
    for size in (1000, 1500, 2000, 3000):
        a, out = torch.randn(size, size, dtype=torch.float64), torch.empty(size, size, dtype=torch.float64)
        rates.append(2 * size**3 / fastest(lambda a=a, out=out: torch.mm(a, a, out=out), clock, repeats))
    return max(rates)


def measure(hidden, n_inputs, n_outputs, n_samples, clock, repeats):
    """Number of parameters, rows of a chunk, operations, seconds with the forward pass and without it."""
    rng, architecture = np.random.default_rng(0), MLP(hidden)
    X = rng.uniform(-1, 1, (n_samples, n_inputs))
    network = architecture.build(n_inputs, n_outputs)
    theta = torch.from_numpy(architecture.starts(network, "auto", Inputs.of(X), [rng]))
    y = torch.from_numpy(rng.normal(size=(n_samples, n_outputs)))
    problem = make_problem(network, SquaredError(), torch.from_numpy(X), y)
    kept, workspace = [network.forward(theta, chunk.X) for chunk in problem.chunks()], Workspace()

    def run(forwards):
        linearise(problem, theta, forwards, Cholesky().accumulator(theta), workspace)

    operations = n_samples * n_outputs * network.n_parameters**2
    seconds = [fastest(lambda f=forwards: run(f), clock, repeats) for forwards in (None, kept)]
    return network.n_parameters, problem.max_rows, operations, *seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", default="wall", choices=CLOCKS, help="processor time is for one thread only")
    args = parser.parse_args()
    clock = CLOCKS[args.clock]
    print("| net | P | rows | a chunk | threads | machine, GFLOP/s | rows and gram | with the forward pass |")
    print("|---|---|---|---|---|---|---|---|")
    with torch.inference_mode():
        for threads in args.threads:
            torch.set_num_threads(threads)
            for name in args.nets:
                rate = machine_rate(clock, args.repeats)
                n_parameters, chunk, operations, all_, without = measure(*NETS[name], clock, args.repeats)
                print(
                    f"| {name} | {n_parameters} | {NETS[name][3]} | {chunk} | {threads} | {rate / 1e9:.0f} "
                    f"| {operations / without / rate:.0%} | {operations / all_ / rate:.0%} |",
                    flush=True,
                )
