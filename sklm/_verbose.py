"""What ``verbose`` prints while a fit runs."""

from __future__ import annotations

import sys
import time
from math import inf, isnan

from ._prepared import Prepared
from .optim import Progress


def say(text: str) -> None:
    """A line on standard error."""
    print(text, file=sys.stderr, flush=True)


def described(fit: Prepared) -> str:
    """What is about to be fitted: parameters, rows, batches and starts."""
    text = f"{fit.problem.network.n_parameters} parameters on {fit.problem.n_samples} rows"
    if fit.batches is not None:
        text += f" in batches of {fit.batches.largest}"
    if fit.validation is not None:
        text += f", {fit.validation.n_samples} more held out to stop by"
    if fit.stages:
        text += f", on {fit.stages[0]} of them first"
    n_starts = len(fit.theta)
    return text + (f", {n_starts} starts" if n_starts > 1 else "")


class RewrittenLine:
    """A line on standard error that is written over and over.

    Parameters
    ----------
    every : float
        Seconds between two updates.
    """

    def __init__(self, every: float):
        self.every, self.is_open = every, False
        self.began = self.shown = time.monotonic()

    def is_due(self) -> bool:
        """Whether the last update is long enough ago."""
        return time.monotonic() - self.shown >= self.every

    def write(self, text: str) -> None:
        """Show ``text`` in place of what is there."""
        self.shown, self.is_open = time.monotonic(), True
        sys.stderr.write(f"\r{text}")
        sys.stderr.flush()

    def close(self) -> None:
        """Go to a new line, if one was begun."""
        if self.is_open:
            sys.stderr.write("\n")
            self.is_open = False


class ProgressLine(RewrittenLine):
    """One line on standard error, rewritten: iterations, loss, damping, time left until max_iter or max_time.

    Parameters
    ----------
    max_iter : int
    max_time : float
        Seconds of the whole fit.
    every : float
        Seconds between two updates.
    """

    def __init__(self, max_iter: int, max_time: float = inf, every: float = 0.2):
        super().__init__(every)
        self.max_iter, self.max_time = max_iter, max_time

    def __call__(self, progress: Progress) -> None:
        ends = progress.n_active == 0
        if not (ends or self.is_due()):
            return
        elapsed = time.monotonic() - self.began
        most = self.max_iter * -(-progress.iteration // self.max_iter)  # several fits may follow each other
        left = min(elapsed / progress.iteration * (most - progress.iteration), max(self.max_time - elapsed, 0))
        leader = progress.leader
        bar = "#" * (20 if ends else int(20 * progress.iteration / most))
        line = (
            f"[{bar:<20}] iteration {progress.iteration}, loss {float(progress.state.best_loss[leader]):.4g}, "
            + damping_text(progress, "damping {:.1e}, ")
            + (f"{elapsed:.1f} s" if ends else f"at most {left:.0f} s left")
        )
        self.write(f"{line:<110}")
        if ends:
            self.close()


class SearchLine(RewrittenLine):
    """One line on standard error, rewritten: iterations of a search for a penalty, all models that run together as one.

    Parameters
    ----------
    every : float
        Seconds between two updates.
    """

    def __init__(self, every: float = 0.2):
        super().__init__(every)
        self.n_iter = 0

    def __call__(self, progress: Progress) -> None:
        self.n_iter += 1
        if self.is_due():
            self.write(f"{self.n_iter} iterations of the search, {time.monotonic() - self.began:.1f} s")


class IterationLines:
    """A line an iteration on standard output: loss, damping, number of starts still running."""

    def __call__(self, progress: Progress) -> None:
        leader = progress.leader
        print(
            f"Iteration {progress.iteration}, loss = {float(progress.state.best_loss[leader]):.8g}, "
            f"{damping_text(progress, 'damping = {:.2e}, ')}running = {progress.n_active}"
        )


class FitsLine(RewrittenLine):
    """One line on standard error, rewritten: how many of many fits are done.

    Parameters
    ----------
    n_fits : int
    every : float
        Seconds between two updates.
    """

    def __init__(self, n_fits: int, every: float = 0.2):
        super().__init__(every)
        self.n_fits = n_fits
        self.shown = -every  # the first one at once

    def __call__(self, n_done: int) -> None:
        if n_done >= self.n_fits or self.is_due():
            bar = "#" * (20 * n_done // self.n_fits)
            self.write(f"[{bar:<20}] {n_done} of {self.n_fits} fits, {time.monotonic() - self.began:.1f} s")


def damping_text(progress: Progress, pattern: str) -> str:
    """Return the damping of the leader in a pattern; nothing for an optimizer that has none."""
    damping = float(progress.state.damping[progress.leader])
    return "" if isnan(damping) else pattern.format(damping)
