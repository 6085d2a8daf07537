"""Selecting and writing back models (rows of the leading axis) of nested tensors."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


def select(tree: T, index: Tensor) -> T:
    """Keep the models ``index`` (b,) of every tensor in a dataclass, dict, list or tensor; other leaves stay."""
    return _map(tree, lambda leaf: leaf[index])


def scatter(tree: T, index: Tensor, part: T) -> T:
    """Return ``tree`` with the models ``index`` (b,) replaced by those of ``part``; ``tree`` is left as it was."""

    def put(leaf: Tensor, new: Tensor) -> Tensor:
        result = leaf.clone()
        result[index] = new
        return result

    return _map(tree, put, part)


def where(condition: Tensor, new: T, old: T) -> T:
    """Choose model by model: ``condition`` (B,) picks from ``new``."""
    return _map(new, lambda a, b: a.where(condition.reshape(-1, *[1] * (a.ndim - 1)), b), old)


def _map(tree: Any, function: Any, *others: Any) -> Any:
    if isinstance(tree, Tensor):
        return function(tree, *others)
    if isinstance(tree, dict):
        return {key: _map(value, function, *(other[key] for other in others)) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_map(value, function, *(other[i] for other in others)) for i, value in enumerate(tree))
    if is_dataclass(tree) and not isinstance(tree, type):
        return type(tree)(
            **{
                field.name: _map(getattr(tree, field.name), function, *(getattr(other, field.name) for other in others))
                for field in fields(tree)
            }
        )
    return tree
