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
    """A constant with one equal row for every example: a class token, positions."""

    row: Tensor


@dataclass(frozen=True)
class Stale:
    """A tensor that means nothing any more, and why."""

    reason: str


def shape_over_batches(two: Tensor, three: Tensor) -> Shape:
    """A shape of two examples and of three: None for what differs."""
    return tuple(a if a == b else None for a, b in zip(two.shape, three.shape, strict=True))


def equal_rows(value: Any, other: Any) -> bool:
    """Whether a tensor has one row per example, all alike."""
    if not (isinstance(value, Tensor) and isinstance(other, Tensor)) or value.dim() == 0:
        return False
    return value.shape[1:] == other.shape[1:] and same(value[:1].expand_as(other), other)


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
