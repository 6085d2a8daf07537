"""What ``verbose`` prints while a fit runs."""

from __future__ import annotations

import sys
import time

from .optim import Progress


class ProgressLine:
    """One line on standard error, rewritten: iterations, loss, damping, time left until max_iter.

    Parameters
    ----------
    max_iter : int
    every : float
        Seconds between two updates.
    """

    def __init__(self, max_iter: int, every: float = 0.2):
        self.max_iter, self.every = max_iter, every
        self.began = self.shown = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        ends = progress.n_active == 0 or progress.iteration >= self.max_iter
        if now - self.shown < self.every and not ends:
            return
        self.shown = now
        done = progress.iteration / self.max_iter
        left = (now - self.began) / progress.iteration * (self.max_iter - progress.iteration)
        bar = "#" * int(20 * done)
        leader = progress.leader
        sys.stderr.write(
            f"\r[{bar:<20}] {progress.iteration}/{self.max_iter}  loss {float(progress.state.best_loss[leader]):.4g}  "
            f"damping {float(progress.state.damping[leader]):.1e}  "
            + (f"done in {now - self.began:.1f} s\n" if ends else f"at most {left:.0f} s left ")
        )
        sys.stderr.flush()


class IterationLines:
    """A line an iteration on standard output: loss, damping, number of starts still running."""

    def __call__(self, progress: Progress) -> None:
        leader = progress.leader
        print(
            f"Iteration {progress.iteration}, loss = {float(progress.state.best_loss[leader]):.8g}, "
            f"damping = {float(progress.state.damping[leader]):.2e}, running = {progress.n_active}"
        )
