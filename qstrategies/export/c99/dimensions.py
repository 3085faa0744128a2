"""What goes through the dimensions of tensors: pairs that broadcast, means, movements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from qstrategies.export.c99.piece import Piece, Place
from qstrategies.export.c99.rounding import quotient_of, rounding_of
from qstrategies.specification.program import Addition, Extremum, Mean, Move

OUTSIDE = -(2**31)


def _steps(shape: Sequence[int]) -> list[int]:
    """How far apart the elements of each dimension lie."""
    return [math.prod(shape[dim + 1 :]) for dim in range(len(shape))]


def _dimensions(place: Place, name: str, sizes: list[int], *steps: list[int]) -> list[Any]:
    """Dimensions as few as they can be, and the steps of each tensor, as C."""
    kept: list[tuple[int, ...]] = []
    for each in zip(sizes, *steps, strict=True):
        size, *apart = each
        if size == 1:
            continue
        if kept and all(b == a * size for a, b in zip(apart, kept[-1][1:], strict=True)):
            kept[-1] = (kept[-1][0] * size, *apart)
        else:
            kept.append(each)
    columns = list(zip(*(kept or [(1,) * (1 + len(steps))]), strict=True))
    dimensions = {
        "count": len(columns[0]),
        "size": place.array("int32_t", f"{name}_size", columns[0]),
    }
    return [dimensions, *columns[1:]]


def _pair(place: Place) -> dict[str, Any]:
    shape = place.node.output.shape
    steps = []
    for tensor in place.node.inputs:
        whole = (1,) * (len(shape) - len(tensor.shape)) + tensor.shape
        apart = zip(_steps(whole), whole, strict=True)
        steps.append([step if size > 1 else 0 for step, size in apart])
    dimensions, a_step, b_step = _dimensions(place, "y", list(shape), *steps)
    return {
        "elements": place.node.output.size,
        "dimensions": dimensions,
        "a_step": place.array("int32_t", "a_step", a_step),
        "b_step": place.array("int32_t", "b_step", b_step),
    }


def _rounded_pair(place: Place) -> dict[str, Any]:
    """The fields that a sum and a product have in common."""
    a, b = place.node.zero_points
    return {
        "pair": _pair(place),
        "a_zero_point": a,
        "b_zero_point": b,
        "rounding": rounding_of(place),
    }


def addition(place: Place) -> Piece:
    node: Addition = place.node
    a, b = node.factors
    fields = {**_rounded_pair(place), "a_factor": a, "b_factor": b}
    return place.call(("rounding", "rounded", "dimensions", "offset", "pair", "addition"), fields)


def product(place: Place) -> Piece:
    pieces = ("rounding", "rounded", "dimensions", "offset", "pair", "product")
    return place.call(pieces, _rounded_pair(place))


def extremum(place: Place) -> Piece:
    node: Extremum = place.node
    fields = {"pair": _pair(place), "largest": int(node.largest)}
    return place.call(("dimensions", "offset", "pair", "extremum"), fields)


def mean(place: Place) -> Piece:
    node: Mean = place.node
    shape = node.inputs[0].shape
    parts: dict[str, Any] = {}
    for name, summed in (("kept", False), ("summed", True)):
        dims = [dim for dim in range(len(shape)) if (dim in node.axes) is summed]
        steps = _steps(shape)
        sizes, apart = [shape[dim] for dim in dims], [steps[dim] for dim in dims]
        dimensions, step = _dimensions(place, name, sizes, apart)
        parts |= {name: dimensions, f"{name}_step": place.array("int32_t", f"{name}_step", step)}
    fields = {
        "results": node.output.size,
        "terms": node.inputs[0].size // node.output.size,
        "zero_point": node.zero_point,
        **parts,
        **quotient_of(place),
    }
    return place.call(("rounding", "rounded_quotient", "dimensions", "offset", "mean"), fields)


def move(place: Place) -> Piece:
    node: Move = place.node
    used = [line for line in node.offsets if line != (0,)] or [(0,)]
    sizes = [len(line) for line in used]
    offsets = [OUTSIDE if each is None else each for line in used for each in line]
    fields = {
        "elements": node.output.size,
        "base": node.base,
        "fill": node.fill,
        "dimensions": {"count": len(used), "size": place.array("int32_t", "y_size", sizes)},
        "offset": place.array("int32_t", "offset", offsets),
    }
    return place.call(("dimensions", "move"), fields)
