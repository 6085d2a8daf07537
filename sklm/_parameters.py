"""Give small option objects (architectures, damping rules) scikit-learn's ``get_params`` and ``set_params``."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, Self


class Parameters:
    """Mixin: hyperparameters are the keyword arguments of ``__init__``, stored under the same name.

    It makes ``clone``, ``GridSearchCV`` and ``set_params(architecture__hidden_layer_sizes=...)`` reach into the
    object without the numerical core importing scikit-learn.
    """

    @classmethod
    @cache  # looking at a signature takes half a millisecond
    def _parameter_names(cls) -> list[str]:
        return [name for name in inspect.signature(cls).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the hyperparameters as a dict; with ``deep`` also those of nested objects as ``name__child``."""
        params: dict[str, Any] = {}
        for name in self._parameter_names():
            value = getattr(self, name)
            params[name] = value
            if deep and hasattr(value, "get_params") and not isinstance(value, type):
                params.update({f"{name}__{child}": v for child, v in value.get_params().items()})
        return params

    def set_params(self, **params: Any) -> Self:
        """Set hyperparameters by name, nested ones as ``name__child``.

        Raises
        ------
        ValueError
            If a name is not a hyperparameter of this object.
        """
        names = self._parameter_names()
        nested: dict[str, dict[str, Any]] = {}
        for key, value in params.items():
            name, _, child = key.partition("__")
            if name not in names:
                raise ValueError(f"Invalid parameter {name!r} for {self!r}. Valid parameters are: {names}.")
            if child:
                nested.setdefault(name, {})[child] = value
            else:
                setattr(self, name, value)
        for name, children in nested.items():
            getattr(self, name).set_params(**children)
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={getattr(self, k)!r}' for k in self._parameter_names())})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.get_params() == other.get_params()  # type: ignore[attr-defined]

    __hash__ = None  # type: ignore[assignment]
