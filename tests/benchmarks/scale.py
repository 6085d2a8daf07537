"""Cost of an iteration by rows and by parameters, and where the dual solver becomes quicker than Cholesky.

    python tests/benchmarks/scale.py                                    # all three parts
    python tests/benchmarks/scale.py --parts crossover --clock processor

Iterations of the engine in float64 with geodesic acceleration, all rows in each. Milliseconds are the median over
iterations; exponents are slopes on doubly logarithmic axes. Memory is the peak of the process beyond what it had before
the fit, when the data had been loaded (Linux).
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import numpy as np
import torch

from sklm import MLP
from sklm.architectures import Inputs
from sklm.losses import SquaredError
from sklm.optim import Geodesic, Stopping, levenberg_marquardt, make_problem

N_INPUTS = 10
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def problem_of(hidden, n_samples, n_outputs=1):
    """A problem and a start (1, P) of a net with ``hidden`` units in one layer: P = (11 + K) hidden + K."""
    rng, architecture = np.random.default_rng(0), MLP(hidden)
    X = rng.uniform(-1, 1, (n_samples, N_INPUTS))
    y = np.stack([np.sin(3 * X[:, 0] + k) * X[:, 1] + X[:, 2] ** 2 for k in range(n_outputs)], axis=1)
    network = architecture.build(N_INPUTS, n_outputs)
    theta = torch.from_numpy(architecture.starts(network, "auto", Inputs.of(X), [rng]))
    return make_problem(network, SquaredError(), torch.from_numpy(X), torch.from_numpy(y)), theta


def iteration(problem, theta, solver, clock, iterations):
    """Seconds of an iteration; the first one is not counted."""
    moments = []
    levenberg_marquardt(
        problem,
        theta,
        solver=solver,
        acceleration=Geodesic(),
        stopping=Stopping(max_iter=iterations + 1, tol=0.0),
        callback=lambda progress: moments.append(clock()),
    )
    return statistics.median(np.diff(moments))


def peak_mib():
    """Peak of the resident memory since the last call of ``forget_peak``."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) / 1024


def forget_peak():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def by_rows(clock, iterations):
    """A process for every number of rows, so that peaks do not add up."""
    sizes, seconds = (10_000, 100_000, 1_000_000), []
    print("| rows | P | ms an iteration | MiB of data | MiB more at the peak |\n|---|---|---|---|---|")
    for n_samples in sizes:
        command = [sys.executable, __file__, "--rows", str(n_samples), "--clock", clock]
        result = json.loads(subprocess.run([*command, "--iterations", str(iterations)], check=True, stdout=-1).stdout)
        seconds.append(result["seconds"])
        data = n_samples * (N_INPUTS + 1) * 8 / 2**20
        print(
            f"| {n_samples} | {result['P']} | {1e3 * seconds[-1]:.1f} | {data:.0f} | {result['mib']:.0f} |", flush=True
        )
    print(f"\nexponent {np.polyfit(np.log(sizes), np.log(seconds), 1)[0]:.2f}\n")


def one_size(n_samples, clock, iterations):
    """What ``by_rows`` wants to know, as JSON."""
    problem, theta = problem_of(20, n_samples)
    forget_peak()
    before = peak_mib()
    seconds = iteration(problem, theta, "cholesky", clock, iterations)
    print(json.dumps({"seconds": seconds, "P": problem.network.n_parameters, "mib": peak_mib() - before}))


def by_parameters(clock, iterations):
    last = None
    print("| P | rows | ms an iteration, Cholesky | exponent from the line above |\n|---|---|---|---|")
    for hidden in (3, 10, 21, 42, 84, 167, 250, 334, 416):
        problem, theta = problem_of(hidden, 10_000)
        size = problem.network.n_parameters
        seconds = iteration(problem, theta, "cholesky", clock, iterations)
        slope = "" if last is None else f"{np.log(seconds / last[1]) / np.log(size / last[0]):.2f}"
        print(f"| {size} | 10000 | {1e3 * seconds:.1f} | {slope} |", flush=True)
        last = size, seconds
    print()


def crossover(clock, iterations):
    """Time with the dual over time with Cholesky, for several numbers of rows N R over P, and where it is one."""
    ratios = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
    heads = " | ".join(f"N R = {ratio:g} P" for ratio in ratios)
    print(f"| P | K | {heads} | equal at N R / P |\n|" + "---|" * (len(ratios) + 3))
    for hidden, n_outputs in ((5, 1), (10, 1), (21, 1), (42, 1), (84, 1), (167, 1), (24, 10), (48, 10)):
        times = []
        for ratio in ratios:
            n_parameters = (N_INPUTS + 1 + n_outputs) * hidden + n_outputs
            problem, theta = problem_of(hidden, max(int(ratio * n_parameters / n_outputs), 1), n_outputs)
            pairs = [[iteration(problem, theta, s, clock, iterations) for s in ("dual", "cholesky")] for _ in range(3)]
            times.append(statistics.median(dual / cholesky for dual, cholesky in pairs))
        equal = np.interp(0, np.log(times), ratios, left=np.nan, right=np.nan)
        cells = " | ".join(f"{t:.2f}" for t in times)
        print(f"| {n_parameters} | {n_outputs} | {cells} | {equal:.2f} |", flush=True)


PARTS = {"rows": by_rows, "parameters": by_parameters, "crossover": crossover}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--clock", default="wall", choices=CLOCKS)
    parser.add_argument("--rows", type=int, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rows is not None:
        one_size(args.rows, CLOCKS[args.clock], args.iterations)
    else:
        for part in args.parts:
            PARTS[part](args.clock if part == "rows" else CLOCKS[args.clock], args.iterations)
