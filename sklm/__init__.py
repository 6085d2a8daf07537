"""Neural networks for curves and tables, trained by Levenberg-Marquardt, as scikit-learn estimators."""

from ._classifier import LMClassifier
from ._many import fit_many
from ._regressor import LMRegressor
from ._search import LMGridSearchCV, LMRandomizedSearchCV
from .architectures import CNN, MLP, Polynomial

__version__ = "0.1.0"

__all__ = [
    "CNN",
    "MLP",
    "LMClassifier",
    "LMGridSearchCV",
    "LMRandomizedSearchCV",
    "LMRegressor",
    "Polynomial",
    "__version__",
    "fit_many",
]
