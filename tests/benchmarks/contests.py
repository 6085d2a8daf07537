"""What the rivals in ``rivals.py`` are compared on, and the clock that judges them; see ``run.py``."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass

import numpy as np
from acceleration import PROBLEMS as FORMULAS
from sklearn.datasets import load_digits


@dataclass(frozen=True)
class Contest:
    """Rows, a network of one hidden layer of tanh units, a loss on these rows to reach and the seconds for it.

    The loss is the mean squared error; the mean log-loss where y (N,) holds numbers of ``classes``. ``raw`` says that
    torch-levenberg-marquardt gets the numbers as they are, because its own example has it so.
    """

    name: str
    X: np.ndarray
    y: np.ndarray
    hidden: int
    target: float
    limit: float
    raw: bool = False
    classes: int = 0

    @property
    def scaled(self):
        """Inputs (N, F) and targets (N,) with mean 0 and variance 1, for those who do not scale themselves.

        Constant columns are zero, and classes are as they are.
        """
        deviation = self.X.std(axis=0)
        inputs = (self.X - self.X.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
        return inputs, self.y if self.classes else (self.y - self.y.mean()) / self.y.std()

    @property
    def loss(self):
        """What is to be reached, in words."""
        return "log-loss" if self.classes else "mean squared error"

    @property
    def title(self):
        n, f = self.X.shape
        return f"{self.name}: {n} rows, {f}-{self.hidden}-{self.classes or 1} tanh, {self.loss} {self.target:.2g}"


def contest(name):
    """The contest of a name in ``CONTESTS``. Targets of the small ones have variance 1, but for the noisy sine."""
    if name == "sinc":
        X = np.linspace(-1, 1, 20_000)[:, None]
        return Contest(name, X, np.sinc(10 * X[:, 0]), 20, 3.3e-7, 20.0, raw=True)
    if name == "digits":
        X, y = load_digits(return_X_y=True)
        return Contest(name, X, y, 20, 1e-3, 10.0, classes=10)
    rng = np.random.default_rng(0)
    if name == "spirals":  # three turns each, half a turn apart, without noise
        angle, y = 6 * np.pi * np.sqrt(rng.uniform(size=1000)), np.arange(1000) % 2
        X = (angle * np.stack([np.cos(angle + np.pi * y), np.sin(angle + np.pi * y)])).T
        return Contest(name, X, y, 20, 1e-3, 10.0, classes=2)
    if name == "noisy sine":  # Pooladzandi & Zhou (arXiv:2212.08769); variance of the noise 0.0033
        X = rng.uniform(-10, 10, (1000, 1))
        return Contest(name, X, np.sin(X[:, 0]) + 0.2 * rng.uniform(size=1000), 10, 3.6e-3, 4.0)
    function, low, high, *_ = FORMULAS[name]
    X = rng.uniform(low, high, (300, len(low)))
    y = function(*X.T)
    return Contest(name, X, (y - y.mean()) / y.std(), 20, {"Franke": 1e-4, "Branin": 1e-9}[name], 4.0)


CONTESTS = ("sinc", "Franke", "Branin", "noisy sine", "digits", "spirals")


class Over(Exception):
    """The target is reached, or the time is up."""


class Watch:
    """Clock of one rival on one seed: stops it by ``Over`` at the target, or when the time is up.

    Parameters
    ----------
    target : float
        Loss to reach.
    limit : float
        Seconds.
    clock : callable
        Seconds since some moment.
    """

    def __init__(self, target, limit, clock=time.perf_counter):
        self.target, self.limit, self.clock = target, limit, clock
        self.error, self.starts, self.compilation = math.inf, 0, 0.0
        self._began = clock()

    @property
    def seconds(self):
        return self.clock() - self._began

    @property
    def left(self):
        return self.limit - self.seconds

    @contextlib.contextmanager
    def stopped(self):
        """A block that does not count: judging, compiling, making data."""
        began = self.clock()
        try:
            yield
        finally:
            self._began += self.clock() - began

    def see(self, error):
        """Take note of a loss reached; raise ``Over`` if it was the last one."""
        self.error = min(self.error, float(error))
        if self.error <= self.target or self.seconds > self.limit:
            raise Over

    def result(self, seconds):
        """What goes into the records: seconds to the target (None if it was not reached), and the rest."""
        reached = self.error <= self.target and seconds <= self.limit
        return {
            "seconds": seconds if reached else None,
            "error": self.error if math.isfinite(self.error) else None,
            "starts": self.starts,
            "compilation": self.compilation,
        }
