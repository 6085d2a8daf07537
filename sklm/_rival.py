"""What may take the place of the usual fit: another activation, and when; a linear model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._prepared import Prepared


@dataclass(frozen=True)
class Rules:
    """When a rival takes the place of the usual fit.

    activation : str
        Of the rival.
    least_columns : int
        With fewer columns of X there is none.
    negligible, noise : float
        Shares of the loss of zero outputs that the usual fit leaves on the rows left out: nothing is tried below the
        first. Below the second, or without a penalty, there may be no noise, and what the iterations of a search leave
        says little about what a fit leaves at its end.
    nothing : float
        Nor above this share, where as good as nothing has been learned, and one may be ahead by chance.
    penalties : tuple of float
        The rival is first tried with so many times the penalty of the usual fit, the larger ones first: two at least,
        since a single one does not race to the end.
    hope, much_hope : float
        It has a search for penalties of its own where it then has the first share of the loss, or the second one where
        there may be no noise.
    at_edge, little : float
        Or where it has at most ``at_edge`` times the loss with the least of these penalties, which is its best, so that
        it may do with far less, and no more than ``little`` of the loss of zero outputs is left.
    less, much_less : float
        It is taken where it then has the first share, or the second one.
    one_error : bool
        Losses are log-losses, and compared with one more row that is wrong.
    """

    activation: str
    least_columns: int
    negligible: float
    noise: float
    nothing: float
    penalties: tuple[float, ...]
    hope: float
    much_hope: float
    at_edge: float
    little: float
    less: float
    much_less: float
    one_error: bool


@dataclass(frozen=True)
class Rival:
    """The same fit with another activation, which ``make`` prepares, and the rules for it."""

    make: Callable[[], Prepared]
    rules: Rules


@dataclass(frozen=True)
class Linear:
    """The same fit without a hidden layer: models that are linear in their parameters, a line and polynomials.

    ``makes`` prepare them, those of lower degrees first; ``by_rows``: rows left out one by one are known;
    ``of_levels``: X has a few levels of each column, so that rows left out say little of what is between these;
    ``has_more_waves``: a curve has more than its model has.
    """

    makes: tuple[Callable[[], Prepared], ...]
    by_rows: bool
    of_levels: bool
    has_more_waves: bool = False


#: softplus draws long smooth borders with fewer units
OF_CLASSES = Rules(
    activation="softplus",
    least_columns=1,
    negligible=0.0,
    noise=0.0,
    nothing=float("inf"),
    penalties=(1.0, 0.3),
    hope=0.95,
    much_hope=0.95,
    at_edge=0.0,
    little=0.0,
    less=0.85,
    much_less=0.85,
    one_error=True,
)
#: sines have no flat ends, and one of them may be even; a curve of them is too sure of what is beyond its ends
OF_NUMBERS = Rules(
    activation="sin",
    least_columns=2,
    negligible=1e-3,
    noise=0.01,
    nothing=0.7,
    penalties=(10.0, 3.0, 1.0, 0.3),
    hope=0.95,
    much_hope=0.6,
    at_edge=1.1,
    little=0.1,
    less=0.9,
    much_less=0.3,
    one_error=False,
)
