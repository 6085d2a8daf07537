"""NIST StRD nonlinear regression: LMRegressor with a custom module against the certified parameters.

Needs a folder with the .dat files of https://www.itl.nist.gov/div898/strd/nls/nls_main.shtml (public domain):

    SKLM_NIST=path/to/files python tests/benchmarks/nist.py

Prints, for both official starting points, the correct digits of the worst parameter (log relative error, NIST's
measure) and the iterations used.
"""

import os
import pathlib
import re
import time
import warnings

import numpy as np
import torch

from sklm import LMRegressor

FORMULAS = {
    "Misra1a": lambda b, x: b[0] * (1 - torch.exp(-b[1] * x)),
    "DanWood": lambda b, x: b[0] * x ** b[1],
    "Chwirut2": lambda b, x: torch.exp(-b[0] * x) / (b[1] + b[2] * x),
    "Gauss1": lambda b, x: (
        b[0] * torch.exp(-b[1] * x)
        + b[2] * torch.exp(-((x - b[3]) ** 2) / b[4] ** 2)
        + b[5] * torch.exp(-((x - b[6]) ** 2) / b[7] ** 2)
    ),
    "ENSO": lambda b, x: (
        b[0]
        + b[1] * torch.cos(2 * torch.pi * x / 12)
        + b[2] * torch.sin(2 * torch.pi * x / 12)
        + b[4] * torch.cos(2 * torch.pi * x / b[3])
        + b[5] * torch.sin(2 * torch.pi * x / b[3])
        + b[7] * torch.cos(2 * torch.pi * x / b[6])
        + b[8] * torch.sin(2 * torch.pi * x / b[6])
    ),
    "Hahn1": lambda b, x: (b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3) / (1 + b[4] * x + b[5] * x**2 + b[6] * x**3),
    "MGH17": lambda b, x: b[0] + b[1] * torch.exp(-x * b[3]) + b[2] * torch.exp(-x * b[4]),
    "Thurber": lambda b, x: (b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3) / (1 + b[4] * x + b[5] * x**2 + b[6] * x**3),
}


class Formula(torch.nn.Module):
    """A formula of parameters b and one column x."""

    def __init__(self, name, start):
        super().__init__()
        self.name = name
        self.b = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self, x):
        return FORMULAS[self.name](self.b, x[:, 0])


def read(path):
    """Return x (n, 1), y (n,), the two starts and the certified parameters of a StRD file."""
    lines = path.read_text().splitlines()
    number = r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?"
    rows = [re.findall(number, line.split("=")[1]) for line in lines[40:58] if re.match(r"\s*b\d+\s*=", line)]
    parameters = np.array(rows, dtype=float)
    data = np.array([[float(v) for v in line.split()] for line in lines[60:] if line.strip()])
    return data[:, 1:], data[:, 0], parameters[:, :2].T, parameters[:, 2]


def digits(found, certified):
    """Correct significant digits of the worst parameter, at most 11 (those of the certificate)."""
    error = np.max(np.abs(found - certified) / np.abs(certified))
    return min(11.0, -np.log10(max(error, 1e-16)))


def fit(name, folder, start, **options):
    x, y, starts, certified = read(pathlib.Path(folder) / f"{name}.dat")
    began = time.perf_counter()
    model = LMRegressor(architecture=Formula(name, starts[start]), **options).fit(x, y)
    return digits(model.theta_, certified), model, time.perf_counter() - began


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    folder = os.environ["SKLM_NIST"]
    print("| problem | start 1: digits | iterations | start 2: digits | iterations | s |")
    print("|---|---|---|---|---|---|")
    for name in FORMULAS:
        if (pathlib.Path(folder) / f"{name}.dat").exists():
            (d1, m1, t1), (d2, m2, t2) = fit(name, folder, 0), fit(name, folder, 1)
            first, second = f"{d1:.1f} ({m1.status_}) | {m1.n_iter_}", f"{d2:.1f} ({m2.status_}) | {m2.n_iter_}"
            print(f"| {name} | {first} | {second} | {t1 + t2:.2f} |")
