"""Numbers that are known only once there is a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx


class BatchNumberError(Exception):
    """A number is asked for that is known only once there is a batch."""


@dataclass(frozen=True)
class OfBatch:
    """A number that depends on how many examples there are: ``value`` of that."""

    value: Callable[[Any], Any]

    def __index__(self) -> int:
        raise BatchNumberError


def with_count(value: Any, count: Any) -> Any:
    """``value`` with the numbers in it that it has for ``count`` examples."""
    return fx.node.map_aggregate(
        value, lambda each: each.value(count) if isinstance(each, OfBatch) else each
    )


def numbers_of_batch(value: Any) -> list[OfBatch]:
    """All of them in ``value``."""
    found: list[Any] = []
    fx.node.map_aggregate(value, found.append)
    return [each for each in found if isinstance(each, OfBatch)]
