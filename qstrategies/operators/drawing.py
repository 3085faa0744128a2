"""What may be drawn of an operator, to try it in random networks (``experiments/fuzz.py``).

A file of this folder registers functions that get a random source and the shapes of tensors,
without the batch, and give a module for them. It need not fit: what torch refuses is drawn again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from torch import Tensor, nn

from qstrategies.operators.base import RECOGNIZERS, Recognizer

Sizes = tuple[int, ...]
Draw = Callable[..., nn.Module | None]


@dataclass(frozen=True)
class Drawing:
    """``draw(random, *shapes)`` gives a module for ``inputs`` tensors, None for shapes that have
    none.

    ``exact``: whether that has an exact integer form. ``often``: how many times as often as the
    rarest it stands in networks.
    """

    draw: Draw
    inputs: int
    exact: bool
    often: int

    @property
    def file(self) -> str:
        """The module that it stands in."""
        return self.draw.__module__


DRAWINGS: list[Drawing] = []


def draws(*, inputs: int = 1, exact: bool = True, often: int = 1) -> Callable[[Draw], Draw]:
    """Register a function that draws modules for ``inputs`` tensors."""

    def register(function: Draw) -> Draw:
        DRAWINGS.append(Drawing(function, inputs, exact, often))
        return function

    return register


class Applied(nn.Module):
    """``target``, a function or the name of a method, of tensors, then of ``arguments``."""

    def __init__(self, target: Any, *arguments: Any, **named: Any) -> None:
        super().__init__()
        self.target, self.arguments, self.named = target, arguments, named
        for index, each in enumerate(arguments):
            if isinstance(each, nn.Parameter):
                self.register_parameter(f"argument_{index}", each)

    def forward(self, *tensors: Tensor) -> Any:
        if isinstance(self.target, str):
            first, *others = tensors
            return getattr(first, self.target)(*others, *self.arguments, **self.named)
        return self.target(*tensors, *self.arguments, **self.named)

    def extra_repr(self) -> str:
        called = self.target if isinstance(self.target, str) else self.target.__name__
        given = [
            str(list(each.shape) if isinstance(each, Tensor) else each) for each in self.arguments
        ]
        given += [f"{name}={value!r}" for name, value in self.named.items()]
        return ", ".join([called, *given])


def spelling(random: Random, recognizer: Recognizer) -> Any:
    """One of the functions and methods that ``recognizer`` knows."""
    return random.choice([each for each, known in RECOGNIZERS.items() if known is recognizer])


def several(random: Random, choices: Sequence[int], count: int) -> Sizes:
    """``count`` of ``choices``, often all alike."""
    if random.random() < 0.5:
        return (random.choice(choices),) * count
    return tuple(random.choice(choices) for _ in range(count))


def happens(random: Random, probability: float) -> bool:
    """True with ``probability``."""
    return random.random() < probability
