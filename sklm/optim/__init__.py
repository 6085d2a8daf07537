"""The Levenberg-Marquardt engine, free of scikit-learn: batched over models, split over rows."""

from .._parameters import Parameters
from ._acceleration import ACCELERATIONS, Geodesic
from ._batches import MiniBatches
from ._damping import STRATEGIES, DampingStrategy, DelayedGratification, GainRatio, Multiplicative, Trial
from ._data import StreamedRows, TensorRows
from ._growing import Growth, fit_growing
from ._leave_one_out import leave_one_out
from ._minimize import levenberg_marquardt
from ._problem import Problem, make_problem, stack_problems
from ._scaling import SCALINGS
from ._solvers import SOLVERS
from ._state import Progress, Solution
from ._status import Status
from ._stopping import Stopping

__all__ = [
    "ACCELERATIONS",
    "SCALINGS",
    "SOLVERS",
    "STRATEGIES",
    "DampingStrategy",
    "DelayedGratification",
    "GainRatio",
    "Geodesic",
    "Growth",
    "MiniBatches",
    "Multiplicative",
    "Parameters",
    "Problem",
    "Progress",
    "Solution",
    "Status",
    "Stopping",
    "StreamedRows",
    "TensorRows",
    "Trial",
    "fit_growing",
    "leave_one_out",
    "levenberg_marquardt",
    "make_problem",
    "stack_problems",
]
