"""What every rule of the step brings by itself, against the default step with geodesic acceleration.

    python tests/benchmarks/ablation.py                                # all of it: about half an hour on one core
    python tests/benchmarks/ablation.py --seeds 3 --iterations 60      # a look
    python tests/benchmarks/ablation.py --parts momentum --problems sinc digits

Every fit starts once from the same parameters as the default does, with one seed after the other, and runs for the same
number of iterations; the two are run one right after the other. Two tables, with a row a part and a column a problem:
the best objective at the end, and the time until the worse of the two ends is reached, each divided by that of the
default: below 1 is better. Cells are the median over seeds and, in brackets, the range; the last column is the median
over problems of the medians.
"""

import argparse
import time

import numpy as np
import torch
from acceleration import PROBLEMS as FORMULAS
from acceleration import data as formula_data
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine

from sklm import MLP
from sklm.architectures import Inputs
from sklm.losses import LogisticLoss, SoftmaxCrossEntropy, SquaredError
from sklm.optim import (
    SCALINGS,
    STRATEGIES,
    Armijo,
    Bold,
    Layers,
    RandomSubset,
    RateSearch,
    Stopping,
    levenberg_marquardt,
    make_problem,
)

CLASSES = {"breast cancer": load_breast_cancer, "wine": load_wine, "digits": load_digits}


def standard(columns):
    spread = columns.std(axis=0)
    return (columns - columns.mean(axis=0)) / np.where(spread > 0, spread, 1)


def spirals():
    """Two arms, three quarters of a turn each, with noise."""
    rng = np.random.default_rng(0)
    t, y = rng.uniform(0.5, 2.5 * np.pi, 300), np.arange(300) % 2
    sign = (2 * y - 1) * t
    return np.c_[sign * np.cos(t), sign * np.sin(t)] + 0.2 * rng.normal(size=(300, 2)), y


def load(name):
    """Inputs, targets (n, K), loss, hidden units, penalty."""
    if name in CLASSES or name == "spirals":
        X, y = spirals() if name == "spirals" else CLASSES[name](return_X_y=True)
        if name == "digits":
            X, y = X[:600], y[:600]
        if len(set(y)) == 2:
            return standard(X), y[:, None].astype(float), LogisticLoss(), 8, 1 / len(X)
        return standard(X), np.eye(len(set(y)))[y], SoftmaxCrossEntropy(), 4, 1 / len(X)
    if name == "diabetes":
        X, y = load_diabetes(return_X_y=True)
        return standard(X), standard(y[:, None]), SquaredError(), 5, 1e-3
    X, y, hidden = formula_data(name.removesuffix(", badly scaled"))
    X = standard(X)
    if "badly scaled" in name:  # columns from 1/30 to 30 standard deviations
        X = X * np.logspace(-1.5, 1.5, X.shape[1])
    return X, standard(y[:, None]), SquaredError(), hidden, 0.0


#: noise-free curves and surfaces, noisy ones, badly scaled inputs, classes
PROBLEMS = [*FORMULAS, "OTL circuit, badly scaled", "borehole, badly scaled", "diabetes", "spirals", *CLASSES]

DEFAULT = {"acceleration": "geodesic"}
PARTS = {
    "no acceleration": {"acceleration": None},
    "momentum": {"acceleration": "momentum"},
    "momentum, geodesic": {"acceleration": ("momentum", "geodesic")},
    "rate": {"line_search": RateSearch()},
    "Armijo": {"line_search": Armijo()},
    "bold": {"acceptance": Bold(2)},
    "bold, power 1": {"acceptance": Bold(1)},
    "trust region": {"strategy": STRATEGIES["trust_region"]()},
    "delayed gratification": {"strategy": STRATEGIES["delayed_gratification"]()},
    "multiplicative": {"strategy": STRATEGIES["multiplicative"]()},
    "marquardt": {"scaling": SCALINGS["marquardt"]},
    "more": {"scaling": SCALINGS["more"]},
    "running maximum": {"scaling": SCALINGS["running_maximum"]},
    "2 dampings": {"n_dampings": 2},
    "3 dampings": {"n_dampings": 3},
    "3 dampings, eigh": {"n_dampings": 3, "solver": "eigh"},
    "random half": {"param_selection": RandomSubset(0.5)},
    "layers": {"param_selection": Layers()},
    "bold, Armijo, running maximum": {
        "acceptance": Bold(2),
        "line_search": Armijo(),
        "scaling": SCALINGS["running_maximum"],
    },
}


def run(problem, theta, options, iterations):
    """Best objectives and seconds after every iteration, from the start on."""
    scores, seconds, began = [float(problem.evaluate(theta).objective)], [0.0], time.perf_counter()

    def look(progress):
        scores.append(float(progress.state.best_score))
        seconds.append(time.perf_counter() - began)

    stopping = Stopping(max_iter=iterations, tol=0.0, n_iter_no_change=iterations)
    levenberg_marquardt(problem, theta, stopping=stopping, callback=look, **{**DEFAULT, **options})
    return np.maximum(scores, 1e-14 * scores[0]), np.array(seconds)


def compare(name, parts, n_seeds, iterations):
    """Ratios {part: (objectives, times)}, an entry a seed."""
    X, y, loss, hidden, alpha = load(name)
    architecture = MLP(hidden)
    network = architecture.build(X.shape[1], y.shape[1])
    problem = make_problem(network, loss, torch.tensor(X), torch.tensor(y), alpha=alpha)
    generators = [np.random.default_rng([0, seed]) for seed in range(n_seeds)]
    starts = torch.from_numpy(architecture.starts(network, "auto", Inputs.of(X), generators))
    run(problem, starts[:1], {}, 3)
    result = {part: ([], []) for part in parts}
    for seed in range(n_seeds):
        theta = starts[seed : seed + 1]
        for part in parts:
            (score, seconds), (other, others) = (run(problem, theta, o, iterations) for o in (PARTS[part], {}))
            target = max(score[-1], other[-1])
            result[part][0].append(score[-1] / other[-1])
            times = [t[np.argmax(s <= target)] for s, t in ((score, seconds), (other, others))]
            result[part][1].append(times[0] / times[1] if min(times) > 0 else np.nan)
    return result


def number(value):
    return f"{value:.2f}" if 0.01 <= value < 100 else f"{value:.0e}"


def table(title, results, parts, which):
    print(f"\n{title}\n\n| part | " + " | ".join(results) + " | all |\n|" + "---|" * (len(results) + 2))
    for part in parts:
        ratios = [np.array(result[part][which]) for result in results.values()]
        medians = [np.nanmedian(r) for r in ratios]
        cells = [
            f"{number(m)} ({number(np.nanmin(r))}-{number(np.nanmax(r))})" for m, r in zip(medians, ratios, strict=True)
        ]
        print(f"| {part} | " + " | ".join(cells) + f" | {number(np.median(medians))} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--problems", nargs="+", default=PROBLEMS, choices=PROBLEMS)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--seeds", type=int, default=9)
    parser.add_argument("--iterations", type=int, default=200)
    args = parser.parse_args()
    np.seterr(all="ignore")
    results = {name: compare(name, args.parts, args.seeds, args.iterations) for name in args.problems}
    table(f"Objective after {args.iterations} iterations, relative", results, args.parts, 0)
    table("Time to the common target, relative", results, args.parts, 1)
