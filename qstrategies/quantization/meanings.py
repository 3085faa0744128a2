"""What a node of a captured graph may mean besides a node of the normalized one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from qstrategies.operators.base import Shape
from qstrategies.quantization.observe import same


class VariesWithBatch:
    """A number that is, or depends on, the batch size: only a reshape, read off its result, may use
    it."""


@dataclass(frozen=True)
class RowPerExample:
    """A constant with an equal slice along ``dim`` for every example: a class token, positions, a
    first state."""

    row: Tensor
    dim: int = 0


@dataclass(frozen=True)
class Stale:
    """A tensor that means nothing any more, and why."""

    reason: str


def shape_over_batches(two: Tensor, three: Tensor) -> Shape:
    """A shape of two examples and of three: None for what differs."""
    return tuple(a if a == b else None for a, b in zip(two.shape, three.shape, strict=True))


def repeated_along(value: Any, other: Any) -> int | None:
    """The dimension along which a tensor has one slice per example, all alike; None if it has
    none."""
    if not (isinstance(value, Tensor) and isinstance(other, Tensor)) or value.dim() != other.dim():
        return None
    apart = [place for place, size in enumerate(value.shape) if size != other.shape[place]]
    if len(apart) != 1 or not same(value.narrow(apart[0], 0, 1).expand_as(other), other):
        return None
    return apart[0]


def fixed(value: Any, other: Any) -> Any:
    """``value`` where both runs agree, and ``VariesWithBatch`` where they do not."""
    if same(value, other):
        return value
    if (
        isinstance(value, tuple | list)
        and isinstance(other, tuple | list)
        and len(value) == len(other)
    ):
        return tuple(fixed(a, b) for a, b in zip(value, other, strict=True))
    return VariesWithBatch()
