"""Which parameters an iteration moves; the others stay as they are, bit by bit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._parameters import Parameters
from ..architectures._base import Network

Pullback = Callable[[Tensor, Tensor, Any, Tensor, Tensor], None]


class Active:
    """The parameters that move in an iteration: all of them.

    Attributes
    ----------
    index : (p,) int tensor or None
        Their numbers, rising; None for all.
    """

    index: Tensor | None = None

    def restrict(self, vector: Tensor) -> Tensor:
        """Keep the entries (B, p) that move, of (B, P)."""
        return vector

    def spread(self, vector: Tensor) -> Tensor:
        """Fill (B, p) up to (B, P), with zeros."""
        return vector

    def put(self, vector: Tensor, part: Tensor) -> Tensor:
        """Return ``vector`` (B, P) with the entries that move replaced by ``part`` (B, p)."""
        return part

    def move(self, theta: Tensor, step: Tensor) -> Tensor:
        """Add a step (B, p) to theta (B, P)."""
        return theta + step

    def pullback(self, network: Network) -> Pullback:
        """The network's ``pullback`` for these parameters."""
        return network.pullback


EVERYTHING = Active()


class Some(Active):
    """A part of the parameters: numbers (p,), rising, of the P parameters of ``network``."""

    index: Tensor

    def __init__(self, network: Network, numbers: np.ndarray, device: torch.device):
        self.index = torch.from_numpy(numbers).to(device)
        self.n_parameters = network.n_parameters
        self._pullback = network.pullback_of(numbers, device)

    def restrict(self, vector: Tensor) -> Tensor:
        return vector.index_select(-1, self.index)

    def spread(self, vector: Tensor) -> Tensor:
        return self.put(vector.new_zeros(len(vector), self.n_parameters), vector)

    def put(self, vector: Tensor, part: Tensor) -> Tensor:
        return vector.index_copy(1, self.index, part)

    def move(self, theta: Tensor, step: Tensor) -> Tensor:
        return theta.index_add(1, self.index, step)  # touches no other entry, not even the sign of a zero

    def pullback(self, network: Network) -> Pullback:
        return self._pullback


class ParameterSelection(Parameters, ABC):
    """Says which parameters move. The same ones for all models of a batch, on every device."""

    #: whether it changes from iteration to iteration
    varies = True

    @abstractmethod
    def check(self, network: Network) -> int:
        """Return the largest number of parameters that move at once.

        Raises
        ------
        ValueError
            If the selection does not fit the network; called before the first iteration.
        """

    @abstractmethod
    def choose(self, network: Network, step: int, seed: int) -> np.ndarray:
        """Return the numbers (p,), rising, of the parameters that move in step number ``step`` (from 0).

        ``seed`` is that of the fit; everything random must follow from it and from ``step``.
        """


class RandomSubset(ParameterSelection):
    """Parameters drawn at random in every iteration.

    Parameters
    ----------
    size : float or int, default=0.5
        Share of the parameters (float, above 0 and up to 1) or their number (int).

    Notes
    -----
    Block-coordinate Gauss-Newton with random blocks: Nesterov 2012 (Efficiency of coordinate descent methods on
    huge-scale optimization problems) for gradients, Gratton et al. (arXiv:1905.05920) for least squares.
    """

    def __init__(self, size: float | int = 0.5):
        self.size = size

    def check(self, network: Network) -> int:
        n_parameters, whole = network.n_parameters, isinstance(self.size, int | np.integer)
        if isinstance(self.size, bool) or not 0 < self.size <= (n_parameters if whole else 1):
            raise ValueError(
                f"size must be a share above 0 and up to 1, or a number of parameters up to {n_parameters}; got "
                f"{self.size!r}."
            )
        return int(self.size) if whole else max(1, round(self.size * n_parameters))

    def choose(self, network: Network, step: int, seed: int) -> np.ndarray:
        rng = np.random.default_rng([seed, step])
        return np.sort(rng.choice(network.n_parameters, self.check(network), replace=False))


class Layers(ParameterSelection):
    """One layer after the other.

    Parameters
    ----------
    order : {'cyclic', 'reversed', 'random'}, default='cyclic'
        From the first layer to the last, the other way, or in a new random order for every pass through all layers.
    """

    def __init__(self, order: str = "cyclic"):
        self.order = order

    def check(self, network: Network) -> int:
        if self.order not in ("cyclic", "reversed", "random"):
            raise ValueError(f"order must be 'cyclic', 'reversed' or 'random'; got {self.order!r}.")
        groups = network.parameter_groups()
        if len(groups) < 2:
            raise ValueError("The network has one layer only: param_selection='layers' would select everything.")
        return max(len(group) for group in groups)

    def choose(self, network: Network, step: int, seed: int) -> np.ndarray:
        groups = network.parameter_groups()
        turn, number = divmod(step, len(groups))
        if self.order == "reversed":
            number = len(groups) - 1 - number
        elif self.order == "random":
            number = np.random.default_rng([seed, turn]).permutation(len(groups))[number]
        return groups[number]


class Mask(ParameterSelection):
    """Always the same parameters, for fine-tuning.

    Parameters
    ----------
    mask : array-like of bool, shape (n_parameters,)
        True where a parameter may move, in the order of ``theta_``.
    """

    varies = False

    def __init__(self, mask: Any):
        self.mask = mask

    def check(self, network: Network) -> int:
        mask = np.asarray(self.mask)
        if mask.dtype != bool or mask.shape != (network.n_parameters,):
            raise ValueError(
                f"A mask of parameters must have dtype bool and shape ({network.n_parameters},), an entry for every "
                f"parameter of the network; got {mask.dtype} and {mask.shape}."
            )
        if not mask.any():
            raise ValueError("The mask lets no parameter move: there is nothing to fit.")
        return int(mask.sum())

    def choose(self, network: Network, step: int, seed: int) -> np.ndarray:
        return np.flatnonzero(self.mask)


SELECTIONS: dict[str, Callable[[], ParameterSelection]] = {"random": RandomSubset, "layers": Layers}
