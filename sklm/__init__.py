"""Neural networks for curves and tables, trained by Levenberg-Marquardt, as scikit-learn estimators."""

from ._regressor import LMRegressor
from .architectures import MLP

__version__ = "0.1.0"

__all__ = ["MLP", "LMRegressor", "__version__"]
