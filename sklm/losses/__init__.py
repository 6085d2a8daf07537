"""Losses with their curvature: what a network's outputs are compared by."""

from ._base import Loss
from ._squared import SquaredError

#: name -> class; a new loss is a new file and a line here
LOSSES: dict[str, type] = {"squared_error": SquaredError}

__all__ = ["LOSSES", "Loss", "SquaredError"]
