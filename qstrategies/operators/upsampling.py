"""Upsampling by whole factors: every value repeated."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from torch import Tensor, fx, nn
from torch.nn import functional

from qstrategies.operators.base import Array, Call, Shape, Writer, recognizes, shape_of
from qstrategies.operators.drawing import Applied, Sizes, draws, several
from qstrategies.operators.movement import Movement, moves


class Upsample(nn.Module):
    """Every value of an image repeated ``factors`` times, one factor per dimension of the image."""

    def __init__(self, factors: tuple[int, ...]) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, x: Tensor) -> Tensor:
        return _repeated(x, self.factors)


def _repeated(x: Tensor, factors: tuple[int, ...]) -> Tensor:
    for dim, factor in enumerate(factors, 2):
        x = x.repeat_interleave(factor, dim)
    return x


@dataclass(frozen=True, eq=False, kw_only=True)
class Upsampling(Movement):
    """``factors`` as in ``Upsample``."""

    factors: tuple[int, ...]

    def integers(self, *inputs: Array) -> Array:
        x = inputs[0]
        for dim, factor in enumerate(self.factors, 2):
            x = np.repeat(x, factor, dim)
        return x

    def moved(self, x: Tensor) -> Tensor:
        return _repeated(x, self.factors)

    def write(self, to: Writer) -> None:
        scales = to.constant(f"{self.name}.scales", np.array([1, 1, *self.factors], np.float32))
        self.write_moved(
            to,
            "Resize",
            "",
            scales,
            mode="nearest",
            nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        )


moves(Upsample, Upsampling, "factors")


@recognizes(functional.interpolate)
def _interpolate(
    call: Call,
    input: fx.Node,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: Any = None,
    recompute_scale_factor: Any = None,
    antialias: bool = False,
) -> fx.Node | None:
    before, after = shape_of(input)[2:], call.shape[2:]
    if all(each == 1 for each in before):  # one value, wherever it is looked for
        return upsampled(call, input)
    factors = _whole_factors(before, after)
    nearest = mode in ("nearest", "nearest-exact") and not antialias
    if factors is None or not (nearest or before == after):
        return None
    if size is None and _per_number(scale_factor, len(after)) != tuple(
        float(factor) for factor in factors
    ):
        return None
    return upsampled(call, input)


def upsampled(call: Call, x: fx.Node) -> fx.Node | None:
    """``x`` with every value repeated to the size of the result; None if that is no multiple."""
    before, after = shape_of(x)[2:], call.shape[2:]
    factors = _whole_factors(before, after) if len(before) == len(after) else None
    if factors is None or before == after:
        return None if factors is None else x
    return call.emit(Upsample(factors), x)


def _per_number(scale_factor: Any, dimensions: int) -> tuple[float, ...]:
    """A scale factor, or one per dimension, as one float per dimension."""
    given = scale_factor if isinstance(scale_factor, tuple | list) else (scale_factor,) * dimensions
    return tuple(float(each) for each in given)


def _whole_factors(before: Shape, after: Shape) -> tuple[int, ...] | None:
    factors = []
    for small, large in zip(before, after, strict=True):
        if small is None or large is None or large % small:
            return None
        factors.append(large // small)
    return tuple(factors)


@recognizes(nn.Upsample, nn.UpsamplingNearest2d)
def _upsample(call: Call, module: Any, x: fx.Node) -> fx.Node | None:
    return _interpolate(call, x, module.size, module.scale_factor, module.mode)


@draws()
def _draw(random: Random, shape: Sizes) -> nn.Module | None:
    dimensions = len(shape) - 1
    if dimensions not in (1, 2, 3):
        return None
    factors = several(random, (1, 2, 3), dimensions)
    sizes = tuple(size * factor for size, factor in zip(shape[1:], factors, strict=True))
    mode = random.choice(("nearest", "nearest-exact"))
    settings = random.choice(({"size": sizes}, {"scale_factor": tuple(map(float, factors))}))
    return random.choice(
        (
            nn.Upsample(**settings, mode=mode),
            nn.UpsamplingNearest2d(**settings),
            Applied(functional.interpolate, **settings, mode=mode),
        )
    )
