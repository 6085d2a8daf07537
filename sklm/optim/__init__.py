"""The engine, free of scikit-learn: Levenberg-Marquardt and its rivals, batched over models, split over rows."""

from .._parameters import Parameters
from ._acceleration import ACCELERATIONS, Geodesic
from ._batches import MiniBatches
from ._damping import STRATEGIES, DampingStrategy, DelayedGratification, GainRatio, Multiplicative, Trial
from ._data import StreamedRows, TensorRows
from ._descent import OPTIMIZERS, gradient_descent
from ._growing import Growth, fit_growing
from ._lbfgs import LBFGS
from ._leave_one_out import leave_one_out
from ._minimize import levenberg_marquardt
from ._optimizers import SGD, Adam, GradientStep, Optimizer
from ._problem import Problem, make_problem, stack_problems
from ._scaling import SCALINGS
from ._solvers import SOLVERS
from ._state import Progress, Solution
from ._status import Status
from ._stopping import Stopping

__all__ = [
    "ACCELERATIONS",
    "LBFGS",
    "OPTIMIZERS",
    "SCALINGS",
    "SGD",
    "SOLVERS",
    "STRATEGIES",
    "Adam",
    "DampingStrategy",
    "DelayedGratification",
    "GainRatio",
    "Geodesic",
    "GradientStep",
    "Growth",
    "MiniBatches",
    "Multiplicative",
    "Optimizer",
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
    "gradient_descent",
    "leave_one_out",
    "levenberg_marquardt",
    "make_problem",
    "stack_problems",
]
