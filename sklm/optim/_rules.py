"""The rules of a step that are off by default: which are on, what they remember, and which exclude each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..architectures._base import Network
from ._acceleration import Acceleration, Momentum
from ._acceptance import Acceptance
from ._batches import MiniBatches
from ._damping import Trial
from ._line_search import LineSearch
from ._problem import Problem
from ._selection import Active, ParameterSelection, Some
from ._state import State


@dataclass
class Rules:
    """What a run was asked for; see :func:`levenberg_marquardt`."""

    accelerations: list[Acceleration]
    line_search: LineSearch | None
    acceptance: Acceptance | None
    n_dampings: int
    selection: ParameterSelection | None

    def check(self, network: Network, batches: MiniBatches | None) -> None:
        """Refuse rules that do not fit the network, the mini-batches or each other.

        Raises
        ------
        ValueError
        """
        if isinstance(self.n_dampings, bool) or not isinstance(self.n_dampings, int) or self.n_dampings < 1:
            raise ValueError(f"n_dampings must be a positive integer; got {self.n_dampings!r}.")
        if self.selection is not None:
            self.selection.check(network)
        if self.line_search is not None:
            self.line_search.rates()
        if batches is None:
            return
        if batches.memory is not None:
            refused = {
                "line_search": self.line_search is not None,
                "acceptance": self.acceptance is not None,
                "n_dampings above 1": self.n_dampings > 1,
                "acceleration='momentum'": any(isinstance(rule, Momentum) for rule in self.accelerations),
                "a param_selection that changes": self.varies,
            }
            names = [name for name, used in refused.items() if used]
            if names:
                raise ValueError(
                    f"{' and '.join(names)} cannot be used where mini-batches are averaged: a step then serves many "
                    "batches and cannot be judged by one. Use batch_size=None, or batch_memory=None "
                    "(for bold acceptance then Bold(reference='current'))."
                )
        if self.acceptance is not None and self.acceptance.needs_all_rows:
            raise ValueError(
                "This acceptance compares objectives of different iterations, which mini-batches forbid: use "
                "Bold(reference='current'), or batch_size=None."
            )

    @property
    def varies(self) -> bool:
        """Whether different parameters move in different iterations."""
        return self.selection is not None and self.selection.varies

    @property
    def looks_back(self) -> bool:
        """Whether a rule wants the last accepted step."""
        return self.acceptance is not None or any(rule.uses_previous for rule in self.accelerations)

    def start(self, theta: Tensor, objective: Tensor) -> dict[str, Any]:
        """Memories of all rules at theta (B, P) with this objective (B,)."""
        memories: dict[str, Any] = {}
        if self.accelerations:
            memories["acceleration"] = [rule.start(theta) for rule in self.accelerations]
        if self.acceptance is not None:
            memories["acceptance"] = self.acceptance.start(objective)
        return memories

    def update(self, memories: dict[str, Any], accept: Tensor) -> dict[str, Any]:
        """Memories after a trial that the models ``accept`` (B,) took."""
        if not self.accelerations:
            return memories
        pairs = zip(self.accelerations, memories["acceleration"], strict=True)
        return {**memories, "acceleration": [rule.update(memory, accept) for rule, memory in pairs]}

    def uphill(self, trial: Trial, accept: Tensor, step: Tensor, state: State) -> tuple[Tensor, dict[str, Any]]:
        """Who takes a step (B, P) although it goes uphill (B,), and the memories afterwards."""
        assert self.acceptance is not None
        assert state.previous is not None
        bold, memory = self.acceptance.uphill(trial, accept, step, state.previous, state.rules["acceptance"])
        check_mask(bold, accept, "The acceptance's uphill must return who takes the step")
        return bold, {**state.rules, "acceptance": memory}

    def changes_selection(self, active: Active) -> bool:
        """Whether :meth:`select` has to be asked before the next step."""
        return self.selection is not None and (self.selection.varies or active.index is None)

    def select(self, problem: Problem, step: int, seed: int) -> Active:
        """The parameters that move in step number ``step`` (from 0)."""
        assert self.selection is not None
        numbers = self.selection.choose(problem.network, step, seed)
        return Some(problem.network, numbers, problem.y.device)


def check_mask(mask: Any, like: Tensor, what: str) -> None:
    """Raise TypeError if a rule of the user's own gives something else than a mask (B,)."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != like.shape:
        raise TypeError(f"{what} as a bool tensor of shape {tuple(like.shape)}; got {mask!r}.")
