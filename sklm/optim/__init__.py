"""The engine, free of scikit-learn: Levenberg-Marquardt and its rivals, batched over models, split over rows."""

from .._parameters import Parameters
from ._acceleration import ACCELERATIONS, Acceleration, Geodesic, Linearised, Momentum, make_accelerations
from ._acceptance import ACCEPTANCES, Acceptance, Bold
from ._batches import MiniBatches
from ._cross_validation import AlphaSearch, SearchInterrupted, cross_validate_alpha
from ._damping import STRATEGIES, DampingStrategy, DelayedGratification, GainRatio, Multiplicative, Trial, TrustRegion
from ._data import StreamedRows, TensorRows
from ._descent import OPTIMIZERS, gradient_descent
from ._growing import Growth, fit_growing
from ._lbfgs import LBFGS
from ._leave_one_out import leave_one_out
from ._line_search import LINE_SEARCHES, Armijo, LineSearch, RateSearch
from ._minimize import levenberg_marquardt
from ._optimizers import SGD, Adam, GradientStep, Optimizer
from ._problem import Problem, make_problem, stack_problems
from ._relevance import Relevance, weigh_inputs
from ._scaling import SCALINGS
from ._selection import SELECTIONS, Layers, Mask, ParameterSelection, RandomSubset
from ._solvers import SOLVERS
from ._state import Progress, Solution
from ._status import Status
from ._stopping import Stopping

__all__ = [
    "ACCELERATIONS",
    "ACCEPTANCES",
    "LBFGS",
    "LINE_SEARCHES",
    "OPTIMIZERS",
    "SCALINGS",
    "SELECTIONS",
    "SGD",
    "SOLVERS",
    "STRATEGIES",
    "Acceleration",
    "Acceptance",
    "Adam",
    "AlphaSearch",
    "Armijo",
    "Bold",
    "DampingStrategy",
    "DelayedGratification",
    "GainRatio",
    "Geodesic",
    "GradientStep",
    "Growth",
    "Layers",
    "LineSearch",
    "Linearised",
    "Mask",
    "MiniBatches",
    "Momentum",
    "Multiplicative",
    "Optimizer",
    "ParameterSelection",
    "Parameters",
    "Problem",
    "Progress",
    "RandomSubset",
    "RateSearch",
    "Relevance",
    "SearchInterrupted",
    "Solution",
    "Status",
    "Stopping",
    "StreamedRows",
    "TensorRows",
    "Trial",
    "TrustRegion",
    "cross_validate_alpha",
    "fit_growing",
    "gradient_descent",
    "leave_one_out",
    "levenberg_marquardt",
    "make_accelerations",
    "make_problem",
    "stack_problems",
    "weigh_inputs",
]
