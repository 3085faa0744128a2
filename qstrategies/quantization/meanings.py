"""What a node of a captured graph may mean besides a node of the normalized one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from qstrategies.operators.base import Shape, is_number
from qstrategies.operators.batch_number import OfBatch, numbers_of_batch, with_count
from qstrategies.quantization.observe import same

PROBES = (1, 3, 4, 5, 7, 8, 16, 30, 2**20)
"""Numbers of examples beside 2: what a number is for all of them, it is for any."""
NUMBERS_OF_ELEMENTS = {"numel", "nelement", torch.numel}


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
    if sizes_apart(value, other) != [(2, 3)]:
        return None
    place = next(place for place, size in enumerate(value.shape) if size != other.shape[place])
    return place if same(value.narrow(place, 0, 1).expand_as(other), other) else None


def sizes_apart(value: Any, other: Any) -> list[tuple[int, int]]:
    """The sizes of a tensor for two examples and for three where they differ."""
    if not (isinstance(value, Tensor) and isinstance(other, Tensor)) or value.dim() != other.dim():
        return []
    return [pair for pair in zip(value.shape, other.shape, strict=True) if pair[0] != pair[1]]


def fixed(value: Any, other: Any) -> Any:
    """A property of tensors, as it is where both runs agree, and ``OfBatch`` where sizes do not."""
    if same(value, other):
        return value
    if isinstance(value, tuple | list) and len(value) == len(other):
        return tuple(fixed(a, b) for a, b in zip(value, other, strict=True))
    return OfBatch(lambda count: value + (other - value) * (count - 2))


def size(node: fx.Node, sources: Sequence[Any], values: Sequence[Any]) -> Any:
    """What ``node``, one of ``QUERIES``, gives for any batch: ``values`` for ``sources``, both of
    two examples and of three."""
    if node.target in NUMBERS_OF_ELEMENTS:  # of a table of pairs it is a square
        shapes = (getattr(each, "shape", each) for each in sources)
        return computed(math.prod, (fixed(*shapes),), {})
    return fixed(*values)


def called(node: fx.Node, *args: Any, **kwargs: Any) -> Any:
    """What the function or method at ``node`` gives."""
    target: Any = node.target
    if node.op != "call_method":
        return target(*args, **kwargs)
    owner = args[0] if hasattr(args[0], target) else torch.Size(args[0])  # sizes are plain tuples
    return getattr(owner, target)(*args[1:], **kwargs)


def computed(target: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """What ``target`` gives of numbers ``OfBatch`` among its arguments, known if it is one for all
    batches."""

    def value(count: Any) -> Any:
        return target(*with_count(args, count), **with_count(kwargs, count))

    first = value(2)
    # where such a number crosses another is not known: no probe may lie there
    unsure = isinstance(first, bool) and any(map(uneven, numbers_of_batch((args, kwargs))))
    known = not unsure and _for_any(value, _crossings(*args))
    return first if known else _each(value, first)


def but_for_one(answer: OfBatch, sides: Sequence[Any]) -> tuple[Any, int | None]:
    """What comparing two ``sides``, numbers or sizes, gives for all numbers of examples but one,
    and that number; None for it where there is no such."""
    if any(map(uneven, numbers_of_batch(sides))):
        return None, None
    crossings = {
        count for pair in zip(*map(_sizes, sides), strict=False) for count in _crossings(*pair)
    }
    for exception in crossings:
        counts = [count for count in (2, *PROBES, *crossings) if count != exception]
        usual = answer.value(counts[0])
        if all(same(usual, answer.value(count)) for count in counts):
            return usual, exception
    return None, None


def _sizes(value: Any) -> Sequence[Any]:
    return value if isinstance(value, tuple | list) else (value,)


def _for_any(value: Callable[[Any], Any], counts: Sequence[int] = ()) -> bool:
    """Whether ``value`` is the same for all of ``PROBES`` and ``counts``; where it raises, as a
    division by 0 does, it is not."""
    try:
        return all(same(value(2), value(count)) for count in (*PROBES, *counts))
    except (ArithmeticError, LookupError, ValueError):
        return False


def _crossings(*sides: Any) -> list[int]:
    """Where two numbers that are linear in the number of examples may come to be equal."""
    pairs = [with_count(sides, count) for count in (2, 3)]
    if len(sides) != 2 or not all(is_number(each) for pair in pairs for each in pair):
        return []
    two, three = (left - right for left, right in pairs)
    if two == three:
        return []
    equal_at = 2 - two / (three - two)
    return [count for count in (math.floor(equal_at), math.ceil(equal_at)) if count > 0]


def uneven(number: OfBatch) -> bool:
    """Whether sizes made of ``number`` are not those that 2 examples and 3 let expect: it is the
    same for both, as half of it, or a whole number that is not linear in how many there are."""
    two, three = number.value(2), number.value(3)
    if same(two, three):
        return True
    if type(two) is not int:
        return False
    return not _for_any(lambda count: number.value(count) == two + (three - two) * (count - 2))


def _each(value: Callable[[Any], Any], example: Any) -> Any:
    """The numbers in a container by themselves, if they are as many for any batch."""
    several = isinstance(example, tuple | list)
    if not several or not _for_any(lambda count: len(value(count))):
        return OfBatch(value)
    return tuple(
        computed(lambda count, place=place: value(count)[place], (OfBatch(lambda n: n),), {})
        for place in range(len(example))
    )
