"""``partial_fit``: one step on every batch of a stream, which weighs what came before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state

from ._base import DTYPES
from ._mini_batches import MEMORY_ROWS_PER_PARAMETER
from ._reporting import Reporting, refuse_nonfinite
from ._training_set import TrainingSet
from .architectures import MLPNetwork, Network
from .architectures._mean import penalties_of_members
from .optim import Solution, Status, Stopping, levenberg_marquardt
from .optim._batches import Stream
from .optim._curvature import mean_diagonal
from .optim._isolation import isolated
from .optim._solvers import NormalSystem

#: a step is tried with more damping up to so many times
TRIES = 10
#: parameters up to which the Gauss-Newton matrix of a stream is kept; with more, a step on few rows is solved in their
#: space
MOST_KEPT = 1000


def started(n_rows: float, weight: float, units: float) -> dict[str, Any]:
    """What a model remembers of rows: as many as count beside later ones, the sum of their weights, and their number.

    There is no Gauss-Newton matrix yet.
    """
    return {"rows": float(n_rows), "weight": weight, "units": float(units), "gram": None, "diagonal": None}


class Streaming(Reporting):
    """One accepted step on a batch of rows."""

    _stream: dict[str, Any]

    def _step(self, data: TrainingSet, meaning: dict, previous: Any) -> dict[str, Any]:
        """Fitted attributes after a step from a ``previous`` estimator, or from random parameters."""
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        first = previous is None
        architecture = (
            self._own_architecture(data.n_units, data.shape, searches=False) if first else previous.architecture_
        )
        network = self._built(architecture, data)
        loss = self._make_loss(network, len(data.X), meaning)
        if first:
            self._check_penalty(network)
            loss = self._in_units(loss, data, architecture)
            x, y = self._scalings(data, architecture, loss, None, keep_constant=True)
            relevance = self._given_relevance(network, data.X.shape[1], None)
            x = x.times(relevance)
            theta = self._random_starts(architecture, network, data, x, seed, 1)
            known, n_iter, n_averaged, damping = started(0, 0.0, 0), 0, 1, float(self.damping)
        else:
            same = loss.is_robust and isinstance(self.loss, str) and type(previous._fitted_loss) is type(loss)
            loss = previous._fitted_loss if same else self._in_units(loss, data, architecture)
            x, y = previous._stored_scalings()
            if not y.scale.any():
                raise ValueError(
                    "The model was fitted to constant targets and knows no scale for others; partial_fit cannot go on. "
                    "Call fit, or begin anew with partial_fit."
                )
            relevance = previous.relevance_
            theta, known, damping = previous.theta_[None], previous._stream, previous.damping_
            n_iter, n_averaged = previous.n_iter_, previous.n_averaged_
        weight, units = known["weight"] + float(data.weights.sum()), known["units"] + data.n_units
        n_rows = float(data.weights.sum()) * units / weight  # in rows of mean weight
        alpha = self._penalty(data, meaning)
        if not first and self._alpha_is_open:
            alpha = previous.alpha_
        elif not first and isinstance(self.alpha, str):  # of all rows so far
            alpha = previous.alpha_ * known["weight"] / weight
        device = self._make_device(data.y.size * network.n_parameters**2)
        stream = self._as_stream(network, len(data.X), n_rows, known, device)
        options = self._options(architecture, stream is not None)
        if stream is None or known["gram"] is not None:
            options["damping"] = damping
        with isolated(device):
            problem = self._problem(network, loss, data, x, y, 1, device, alpha)
            if n_averaged > 1:
                assert isinstance(network, MLPNetwork)
                factors = torch.from_numpy(penalties_of_members(network, n_averaged)).to(problem.penalty_mask)
                problem = replace(problem, penalty_mask=problem.penalty_mask * factors)
            options = self._suited(problem, options, device)
            if options["solver"] == "cg":  # there is no memory for a matrix
                stream = None
            if stream is not None and self.solver == "auto":
                options["solver"] = "cholesky" if network.n_parameters <= MOST_KEPT else "dual"
            self._check_memory(problem, options["solver"], device)
            start = torch.from_numpy(np.array(theta)).to(device, DTYPES[self.dtype])
            if stream is not None and options["solver"] == "dual":
                stream.spread(float(mean_diagonal(problem, start)))
            if stream is not None:
                options["damping"] = max(options["damping"], stream.least_damping)
            solution = levenberg_marquardt(
                problem,
                start,
                stopping=Stopping(max_iter=TRIES, tol=0.0),
                callback=lambda progress: not torch.equal(progress.state.theta, start),
                seed=seed + n_iter,
                batches=stream,
                **{name: value for name, value in options.items() if name != "stopping"},
            )
        if Status.INTERRUPTED in solution.status:
            raise KeyboardInterrupt
        refuse_nonfinite(solution, 0)
        fitted = {**self._core(architecture, loss, x, y, meaning), "relevance_": relevance}
        fitted["theta_"], fitted["batch_size_"] = solution.theta[0].cpu().double().numpy(), len(data.X)
        fitted.update(self._report(solution, 0, None), loo_score_=None, alpha_=alpha, alpha_scores_=None)
        fitted.update(n_averaged_=n_averaged, _members=None)
        fitted.update(self._no_error_bars("partial_fit has seen a batch of rows"))
        fitted["_stream"] = {**_kept(stream), "rows": known["rows"] + n_rows, "weight": weight, "units": units}
        fitted.update(self._as_one_step(solution, previous, fitted, damping))
        return fitted

    def _as_one_step(self, solution: Solution, previous: Any, fitted: dict[str, Any], damping: float) -> dict[str, Any]:
        """What is told of a step; ``damping`` is that of the step before."""
        moved = bool(solution.moved[0])
        told: dict[str, Any] = {"n_iter_": 1 if previous is None else previous.n_iter_ + 1, "converged_": False}
        if not moved:  # one hopeless batch is no reason to distrust the next ones
            told["damping_"] = float(damping)
        told["status_"] = "one_step" if moved else "no_step"
        told["message_"] = "One step was taken." if moved else "No step lowered the objective of the batch."
        for name in ("loss_curve_", "damping_curve_"):
            last = fitted[name][-1:]
            told[name] = last if previous is None else np.append(getattr(previous, name), last)
        return told

    def _as_stream(
        self, network: Network, n_samples: int, n_rows: float, known: dict[str, Any], device: torch.device
    ) -> Stream | None:
        """How a batch is averaged with those before it; None where it is large enough for a step of its own."""
        memory, n_parameters = self.batch_memory, network.n_parameters
        if memory == "auto":
            plain = self.solver in ("auto", "cholesky", "eigh", "dual") and not self._has_rules_for_all_rows
            enough = MEMORY_ROWS_PER_PARAMETER * n_parameters
            memory = enough if plain and n_rows < enough else None
        if memory is None:
            return None
        average = None
        if known["gram"] is not None:
            kept, dtype = (known["gram"], known["diagonal"]), DTYPES[self.dtype]
            gram, diagonal = (torch.tensor(part, dtype=dtype, device=device)[None] for part in kept)
            average = NormalSystem(gram, torch.zeros_like(diagonal), diagonal)
        return Stream(n_samples, n_rows, int(memory), known["rows"], n_parameters, float(self.damping), average)


def _kept(stream: Stream | None) -> dict[str, Any]:
    """The Gauss-Newton matrix that later batches are averaged with, if there is one."""
    if stream is None or stream.latest is None:
        return {"gram": None, "diagonal": None}
    latest: NormalSystem = stream.latest
    return {name: getattr(latest, name)[0].clone().cpu().double().numpy() for name in ("gram", "diagonal")}
