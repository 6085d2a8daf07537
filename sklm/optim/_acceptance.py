"""Which steps are taken although they raise the objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from .._parameters import Parameters
from ._damping import Memory, Trial


class Acceptance(Parameters, ABC):
    """Asked after the damping strategy, for all models at once; the best iterate is kept whatever it says.

    A step that it adds leaves the damping as it is. It has no state of its own.
    """

    @property
    def needs_all_rows(self) -> bool:
        """Whether it compares objectives of several iterations, which mini-batches forbid."""
        return False

    def start(self, objective: Tensor) -> Memory:
        """Return its memory, a dict of tensors, from the objective (B,) at the start; nothing by default."""
        return {}

    @abstractmethod
    def uphill(
        self, trial: Trial, accept: Tensor, step: Tensor, previous: Tensor, memory: Memory
    ) -> tuple[Tensor, Memory]:
        """Return who takes the step after all, (B,) bool, and the next memory.

        ``accept`` (B,) are those who take it anyway, ``step`` and ``previous`` (B, P) the trial step and the last
        accepted one, which is zero at first.
        """


class Bold(Acceptance):
    """Bold acceptance: uphill, as long as the direction is that of the last step.

    Parameters
    ----------
    power : {1, 2}, default=2
        The higher, the bolder.
    reference : {'best', 'current'}, default='best'
        What the new objective is compared with: the lowest so far, or the present one.

    Raises
    ------
    ValueError
        For other values.

    Notes
    -----
    A step d is taken if ``(1 - cos(d, d_last))^power F_new <= F_reference`` (Transtrum & Sethna, arXiv:1201.5885,
    section 4), so that the path may follow a curved canyon along its slope. Downhill steps are taken anyway.
    """

    def __init__(self, power: int = 2, reference: str = "best"):
        self.power = power
        self.reference = reference

    @property
    def needs_all_rows(self) -> bool:
        return self.reference == "best"

    def start(self, objective: Tensor) -> Memory:
        if self.power not in (1, 2):
            raise ValueError(f"power must be 1 or 2; got {self.power!r}.")
        if self.reference not in ("best", "current"):
            raise ValueError(f"reference must be 'best' or 'current'; got {self.reference!r}.")
        return {"lowest": objective} if self.reference == "best" else {}

    def uphill(
        self, trial: Trial, accept: Tensor, step: Tensor, previous: Tensor, memory: Memory
    ) -> tuple[Tensor, Memory]:
        lengths = (step.square().sum(1) * previous.square().sum(1)).sqrt()
        cosine = (step * previous).sum(1) / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)
        reference = torch.minimum(memory["lowest"], trial.objective) if memory else trial.objective
        bold = (1 - cosine.clamp(-1, 1)) ** self.power * trial.trial_objective <= reference
        return bold & (lengths > 0), {"lowest": reference} if memory else memory


ACCEPTANCES: dict[str, Callable[[], Acceptance]] = {"bold": Bold}
