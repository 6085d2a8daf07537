"""What a fit knows at any moment, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..architectures._base import Forward
from ._damping import Memory
from ._status import Status


@dataclass
class State:
    """One row a model still in the batch. Replaced as a whole at the end of an iteration, never edited in place.

    Attributes
    ----------
    model : (b,) int
        Row of the model in the caller's batch.
    theta : (b, P)
    objective, loss, damping, least_damping : (b,)
    start : (b,)
        Loss of zero outputs (the starting objective where that is zero): the scale of an exact fit.
    memory : dict
        The damping strategy's, or the optimizer's.
    mean_theta : (b, P)
        Average of the iterates where mini-batches are averaged, else the last.
    best_theta (b, P), best_score, best_loss : (b,)
        The best iterate by validation loss if there is one, else by objective on all rows.
    anchor, stall : (b,)
        Score from which progress is counted, and iterations since.
    status, n_iter : (b,) int
    previous : (b, P) or None
        The last accepted step, zero at first; None where no rule asks for it.
    rules : dict
        Memories of the other rules: ``acceleration``, a list, and ``acceptance``.
    """

    model: Tensor
    theta: Tensor
    objective: Tensor
    start: Tensor
    loss: Tensor
    damping: Tensor
    least_damping: Tensor
    memory: Memory
    mean_theta: Tensor
    best_theta: Tensor
    best_score: Tensor
    best_loss: Tensor
    anchor: Tensor
    stall: Tensor
    status: Tensor
    n_iter: Tensor
    previous: Tensor | None = None
    rules: dict[str, Any] = field(default_factory=dict)


@dataclass
class Work:
    """What belongs to the current linearisation.

    Attributes
    ----------
    forwards : list of Forward or None
        Of the state's theta.
    stale : (b,) bool
        Models whose theta has moved since the linearisation.
    spare : list of Forward or None
        May be written over.
    system : the solver's, or None
    scale : (b, p)
        D, of the parameters that move.
    largest : (b, P)
        Largest diagonal of the Gauss-Newton matrix so far.
    tiny : (b,) bool
        Models whose last step was below rounding.
    rows : (b, p, R n) or None
        Jacobian rows of the linearisation while they last.
    average : the system averaged over mini-batches, or None
    """

    forwards: list[Forward] | None
    stale: Tensor
    spare: list[Forward] | None = None
    system: Any = None
    scale: Tensor | None = None
    largest: Tensor | None = None
    tiny: Tensor | None = None
    rows: Tensor | None = None
    average: Any = None


@dataclass
class History:
    """Curves, one entry an iteration, each (T, B) once finished; NaN after a model has stopped."""

    names: tuple[str, ...] = ("objective", "loss", "damping", "validation")
    _entries: list[tuple[Tensor, dict[str, Tensor]]] = field(default_factory=list)

    def append(self, model: Tensor, **values: Tensor) -> None:
        """Remember values (b,) of the models (b,)."""
        self._entries.append((model, values))

    def __len__(self) -> int:
        return len(self._entries)

    def arrays(self, n_iter: np.ndarray) -> dict[str, np.ndarray]:
        """Return one array (T, B) a curve, for models that ran n_iter (B,) iterations."""
        result = {name: np.full((len(self._entries), len(n_iter)), np.nan) for name in self.names}
        row = 0
        for _, same in groupby(self._entries, key=lambda entry: id(entry[0])):  # entries of the same models, in a row
            entries = list(same)
            index, rows = entries[0][0].cpu().numpy(), np.arange(row, row + len(entries))[:, None]
            for name in entries[0][1]:
                curve = torch.stack([values[name].detach() for _, values in entries])
                result[name][rows, index] = curve.cpu().numpy()
            row += len(entries)
        # between two looks at a device, finished models are carried along
        late = np.arange(len(self._entries))[:, None] >= n_iter
        return {name: np.where(late, np.nan, curve) for name, curve in result.items()}


@dataclass
class Solution:
    """Result of :func:`levenberg_marquardt` or :func:`gradient_descent` for B models.

    Attributes
    ----------
    theta : (B, P) tensor
        Best parameters of every model.
    damping : (B,) tensor
        The last one; NaN from an optimizer that has none.
    score : (B,) ndarray
        Objective of ``theta`` (validation loss if there was one): what restarts are compared by.
    loss : (B,) ndarray
        Training loss of ``theta`` in the units of the targets.
    status : list of Status
    n_iter : (B,) ndarray of int
    history : dict of (T, B) ndarray
        ``objective``, ``loss``, ``damping`` and ``validation`` by iteration; NaN where there is none.
    validated : bool
        Whether ``score`` was taken on validation rows.
    moved : (B,) ndarray of bool
        Whether ``theta`` differs from the starting point.
    groups : (B,) ndarray of int or None
        Number of the fit that a model is a start of; None for starts of one fit.
    leave_one_out : (B,) ndarray or None
        Approximate leave-one-out loss of ``theta``, if it was asked for: then restarts are compared by it, but for fits
        where it is NaN or infinite.
    """

    theta: Tensor
    damping: Tensor
    score: np.ndarray
    loss: np.ndarray
    status: list[Status]
    n_iter: np.ndarray
    history: dict[str, np.ndarray]
    validated: bool = False
    moved: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    groups: np.ndarray | None = None
    leave_one_out: np.ndarray | None = None

    @property
    def rank(self) -> np.ndarray:
        """Scores to compare the starts of a fit by, (B,).

        Exact fits are equal, whatever rounding left of them, unless validation rows tell them apart; NaN is worst; if
        a start reached ``target_loss``, only those that did count; and none that was given up for another one.
        """
        exact = np.array([status is Status.EXACT and not self.validated for status in self.status])
        score, groups = self.score, self.group
        if self.leave_one_out is not None:
            known = np.isin(groups, groups[np.isfinite(self.leave_one_out)])
            score = np.where(known, self.leave_one_out, score)
        rank = np.where(exact, 0.0, np.nan_to_num(score, nan=np.inf, posinf=np.inf))
        rank = np.where([status is Status.SUPERSEDED for status in self.status], np.inf, rank)
        reached = np.array([status is Status.TARGET for status in self.status])
        return np.where(~reached & np.isin(groups, groups[reached]), np.inf, rank)

    @property
    def group(self) -> np.ndarray:
        """Number of the fit that each model is a start of, (B,)."""
        return np.zeros(len(self.score), dtype=int) if self.groups is None else self.groups

    @property
    def best(self) -> int:
        """The first of the models with the lowest score."""
        return int(np.argmin(self.rank))

    def only(self, index: np.ndarray) -> Solution:
        """The models ``index`` (b,)."""
        rows = torch.from_numpy(np.asarray(index)).to(self.theta.device)
        return Solution(
            theta=self.theta[rows],
            damping=self.damping[rows],
            score=self.score[index],
            loss=self.loss[index],
            status=[self.status[i] for i in index],
            n_iter=self.n_iter[index],
            history={name: curve[:, index] for name, curve in self.history.items()},
            validated=self.validated,
            moved=self.moved[index],
            groups=None if self.groups is None else self.groups[index],
        )

    def followed_by(self, later: Solution) -> Solution:
        """The solution ``later`` of the same models, which went on from this one, with the iterations of both."""
        history = {name: np.concatenate([self.history[name], curve]) for name, curve in later.history.items()}
        return replace(later, history=history, moved=self.moved | later.moved)

    def interrupted(self) -> Solution:
        """The same, ended by the user."""
        return self.ended(Status.INTERRUPTED)

    def ended(self, status: Status) -> Solution:
        """The same, ended for this reason."""
        return replace(self, status=[status] * len(self.status))

    def leaders(self, number: int = 1) -> np.ndarray:
        """Models that are among the best ``number`` of their group, (b,), in their order."""
        order = np.lexsort((self.rank, self.group))
        first = np.searchsorted(self.group[order], self.group[order])
        return np.sort(order[np.arange(len(order)) - first < number])


def joined(solutions: list[Solution]) -> Solution:
    """The models of several solutions of at least one, one after the other, as starts of one fit."""
    longest = max(len(solution.history["loss"]) for solution in solutions)

    def padded(curve: np.ndarray) -> np.ndarray:
        return np.pad(curve, ((0, longest - len(curve)), (0, 0)), constant_values=np.nan)

    history = {name: np.hstack([padded(one.history[name]) for one in solutions]) for name in solutions[0].history}
    return Solution(
        theta=torch.cat([solution.theta for solution in solutions]),
        damping=torch.cat([solution.damping for solution in solutions]),
        score=np.concatenate([solution.score for solution in solutions]),
        loss=np.concatenate([solution.loss for solution in solutions]),
        status=[status for solution in solutions for status in solution.status],
        n_iter=np.concatenate([solution.n_iter for solution in solutions]),
        history=history,
        validated=solutions[0].validated,
        moved=np.concatenate([solution.moved for solution in solutions]),
    )


@dataclass
class Progress:
    """What a callback sees after an iteration; reading a value waits for the device.

    Attributes
    ----------
    iteration : int
        Number of iterations done.
    state : State
    n_active : int
        Models still running.
    """

    iteration: int
    state: State
    n_active: int

    @property
    def leader(self) -> int:
        """Row of the state with the lowest best score."""
        return int(torch.argmin(self.state.best_score))
