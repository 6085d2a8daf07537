"""The mean of the starts of a fit in place of the best of them, where they end in different minima."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ._prepared import NO_PENALTY, Prepared
from .architectures import MLP, MLPNetwork
from .architectures._mean import mean_of_mlps
from .optim import Solution, Status
from .optim._isolation import isolated
from .optim._leave_one_out import LeftOut
from .optim._status import FINAL

#: the mean counts where it lowers the loss of its members on the training rows, in their mean, by this share of the
#: loss on rows left out
WORTH = 0.01
#: where the leave-one-out loss is known, it may be so many times that of the best, who is so by luck, too
LUCK = 1.05
#: its members are the starts whose score is up to so many times that of the best
BEHIND = 1.5


@dataclass
class Mean:
    """The mean of some starts.

    rows : (M,) ndarray of int, of the solution; architecture : MLP; theta : (Q,) float64 ndarray; loss : float, of the
    training rows in the units of the targets; left_out : LeftOut or None; members : (M, P) float64 ndarray
    """

    rows: np.ndarray
    architecture: MLP
    theta: np.ndarray
    loss: float
    left_out: LeftOut | None
    members: np.ndarray


def mean_of_starts(fit: Prepared, solution: Solution, row: int, alone: LeftOut | None) -> Mean | None:
    """Return the mean of the starts of a fit if it is better than the best of them, ``row`` of the solution.

    ``alone`` is what that one says of rows that are left out, where this is known.

    Notes
    -----
    For a loss that is convex in the outputs, the loss of the mean is below the mean loss (Jensen). For the squared
    error, and for the log-loss as the mean is taken before the link, the difference does not depend on the targets
    (Krogh & Vedelsby 1995, NIPS 7): that of training rows says what to expect of new ones, where it is larger still.
    """
    if fit.n_averaged == 1 or fit.alpha <= NO_PENALTY:
        return None
    rows = _members(solution, row)
    if len(rows) < 2:
        return None
    with isolated(fit.problem.y.device):
        problem, theta = fit.members(solution, rows)
        apart, together, reported = 0.0, 0.0, 0.0
        for chunk, forward in problem.forward_passes(theta, None):
            apart += float(problem.loss.value(forward.outputs, chunk.y, chunk.weights).sum(-1).mean())
            value = problem.loss.value(forward.outputs.mean(0, keepdim=True), chunk.y, chunk.weights)[0]
            together += float(value.sum())
            reported += float((value * problem.report_weights).sum())
        if fit.searched_losses is not None:  # a warm start of several knows that they are worth while
            losses = fit.searched_losses[np.isfinite(fit.searched_losses)]
            if len(losses) == 0 or not apart - together > WORTH * float(losses.mean()):
                return None
        left_out = None
        if fit.predicts_rows:
            if alone is None:
                return None
            left_out = fit.left_out(solution, rows)
            if float(left_out.loss) > LUCK * float(alone.loss):
                return None
    network = problem.network
    assert isinstance(network, MLPNetwork)
    members = theta.cpu().double().numpy()
    architecture, merged = mean_of_mlps(fit.core["architecture_"], network, members)
    return Mean(rows, architecture, merged, reported, left_out, members)


def _members(solution: Solution, row: int) -> np.ndarray:
    """The starts (m,) of the fit of a row that are not far behind it; none where a limit or a person ended one.

    ``max_iter`` is no such limit, but faults end membership.
    """
    rank, group = solution.rank, np.flatnonzero(solution.group == solution.group[row])
    sound = np.array([solution.status[n].converged or solution.status[n] is Status.MAX_ITER for n in group])
    if row not in group[sound] or any(solution.status[number] in FINAL for number in group):
        return group[:0]
    return group[sound & (rank[group] <= rank[row] + (BEHIND - 1) * abs(rank[row]))]
