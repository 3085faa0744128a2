"""What a node of a captured graph may mean besides a node of the normalized one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from qstrategies.operators.base import Shape
from qstrategies.operators.batch_number import OfBatch, with_count
from qstrategies.quantization.observe import same

PROBES = (3, 4, 5, 7, 8, 16, 30)
"""Numbers of examples beside 2: what a number is for all of them, it is for any."""


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
    """A property of tensors, as it is where both runs agree, and ``OfBatch`` where sizes do not."""
    if same(value, other):
        return value
    if isinstance(value, tuple | list) and len(value) == len(other):
        return tuple(fixed(a, b) for a, b in zip(value, other, strict=True))
    return OfBatch(lambda count: value + (other - value) * (count - 2))


def computed(target: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """What ``target`` gives of numbers ``OfBatch`` among its arguments, known if it is one for all
    batches."""

    def value(count: Any) -> Any:
        return target(*with_count(args, count), **with_count(kwargs, count))

    first = value(2)
    return first if all(same(first, value(count)) for count in PROBES) else _each(value, first)


def _each(value: Callable[[Any], Any], example: Any) -> Any:
    """The numbers in a container by themselves."""
    if not isinstance(example, tuple | list):
        return OfBatch(value)
    return tuple(
        computed(lambda count, place=place: value(count)[place], (OfBatch(lambda n: n),), {})
        for place in range(len(example))
    )
