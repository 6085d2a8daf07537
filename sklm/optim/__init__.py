"""The Levenberg-Marquardt engine, free of scikit-learn: batched over models, split over rows."""

from .._parameters import Parameters
from ._acceleration import ACCELERATIONS, Acceleration, Geodesic, Linearised, Momentum, make_accelerations
from ._acceptance import ACCEPTANCES, Acceptance, Bold
from ._batches import MiniBatches
from ._damping import STRATEGIES, DampingStrategy, DelayedGratification, GainRatio, Multiplicative, Trial, TrustRegion
from ._data import StreamedRows, TensorRows
from ._growing import Growth, fit_growing
from ._line_search import LINE_SEARCHES, Armijo, LineSearch, RateSearch
from ._minimize import levenberg_marquardt
from ._problem import Problem, make_problem
from ._scaling import SCALINGS
from ._selection import SELECTIONS, Layers, Mask, ParameterSelection, RandomSubset
from ._solvers import SOLVERS
from ._state import Progress, Solution
from ._status import Status
from ._stopping import Stopping

__all__ = [
    "ACCELERATIONS",
    "ACCEPTANCES",
    "LINE_SEARCHES",
    "SCALINGS",
    "SELECTIONS",
    "SOLVERS",
    "STRATEGIES",
    "Acceleration",
    "Acceptance",
    "Armijo",
    "Bold",
    "DampingStrategy",
    "DelayedGratification",
    "GainRatio",
    "Geodesic",
    "Growth",
    "Layers",
    "LineSearch",
    "Linearised",
    "Mask",
    "MiniBatches",
    "Momentum",
    "Multiplicative",
    "ParameterSelection",
    "Parameters",
    "Problem",
    "Progress",
    "RandomSubset",
    "RateSearch",
    "Solution",
    "Status",
    "Stopping",
    "StreamedRows",
    "TensorRows",
    "Trial",
    "TrustRegion",
    "fit_growing",
    "levenberg_marquardt",
    "make_accelerations",
    "make_problem",
]
