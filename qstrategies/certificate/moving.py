"""Operators that only place or pick values: nothing is computed, so that nothing can be rounded."""

from __future__ import annotations

import functools
import math

import numpy as np

from qstrategies.certificate.declarations import (
    FLOATS,
    WIDENED,
    Call,
    Declaration,
    anything,
    not_negative,
    only,
    positive,
)
from qstrategies.certificate.grid import Array, Grid, UnprovenError, union
from qstrategies.certificate.tensors import KNOWN
from qstrategies.certificate.windows import axes_of, check_every_window

LONGEST = 2**14  # so many positions of a resize are tried out


def same(call: Call) -> Grid:
    """What the first input holds."""
    return call.first.grid


def _placed(call: Call) -> Grid:
    """For operators whose other inputs say where: they must be constant."""
    for index in range(1, len(call.inputs)):
        call.constant(index)
    return same(call)


def _split(call: Call) -> Grid:
    if sum(map(bool, call.node.output)) < 2:
        raise UnprovenError("it splits into one part: executors may leave it out")
    return _placed(call)


def _dropout(call: Call) -> Grid:
    training = call.constant(2)
    if training is not None and training.any():
        raise UnprovenError("it draws random numbers, in training mode")
    return same(call)


def _gather(call: Call) -> Grid:
    data, indices = call.first, call.inputs[1]
    assert indices is not None
    axis = call.attributes["axis"]
    shape = data.kind.shape
    size = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
    if data.constant is None and indices.constant is None:
        raise UnprovenError("neither its table nor its indices are constant")
    if size is None or not -size <= indices.grid.least <= indices.grid.most < size:
        raise UnprovenError("its indices may lie outside of its table")
    return data.grid


def _elements(call: Call) -> Grid:
    shape = call.first.kind.shape
    if shape is None or len(shape) != 1:
        raise UnprovenError("it picks elements from more than a table of one dimension")
    return _gather(call)


def _gathered(call: Call) -> Grid:
    indices, shape = call.constant(1), call.first.kind.shape
    if indices is None or not indices.size or shape is None or indices.shape[-1] > len(shape):
        raise UnprovenError("the shape that it gathers from is not known")
    for size, part in zip(shape, np.moveaxis(indices, -1, 0), strict=False):
        if size is None or not -size <= part.min() <= part.max() < size:
            raise UnprovenError("its indices may lie outside of its table")
    return same(call)


def _concatenated(call: Call) -> Grid:
    return union(*(tensor.grid for tensor in call.tensors))


def _chosen(call: Call) -> Grid:
    condition, first, second = call.tensors
    if condition.constant is None:
        raise UnprovenError("its condition is not constant")
    return union(first.grid, second.grid)


def _padded(call: Call) -> Grid:
    pads, mode = call.constant(1), call.attributes["mode"]
    if pads is None or (pads < 0).any() or not pads.any():
        raise UnprovenError("its pads are none, negative or not constant")
    if mode == b"constant":
        value = call.constant(2)
        return union(same(call), Grid.of(np.zeros(1) if value is None else value))
    shape, axes = call.first.kind.shape, call.constant(3)
    around = pads.reshape(2, -1).max(0)
    if shape is None:
        raise UnprovenError("the shape that it pads is not known")
    for axis, pad in zip(range(len(shape)) if axes is None else axes, around, strict=True):
        size = shape[axis]
        if pad and (size is None or pad >= size):
            raise UnprovenError("it pads with more values than there may be")
    return same(call)


def _resized(call: Call) -> Grid:
    shape, scales, sizes = call.first.kind.shape, call.constant(2), call.constant(3)
    if shape is None:
        raise UnprovenError("the shape that it resizes is not known")
    if scales is not None and scales.size:
        factors = [float(factor) for factor in scales]
    elif sizes is not None and len(sizes) == len(shape):
        factors = [_ratio(int(new), old) for new, old in zip(sizes, shape, strict=True)]
    else:
        raise UnprovenError("its factors are not known")
    if all(factor == 1 for factor in factors):
        raise UnprovenError("it resizes by 1: executors may leave it out")
    how = (call.attributes["coordinate_transformation_mode"], call.attributes["nearest_mode"])
    for factor in factors:
        if factor != 1 and not _whole(factor, *how):
            raise UnprovenError(f"executors may pick other neighbours: it resizes by {factor:g}")
    return same(call)


def _ratio(new: int, old: int | None) -> float:
    if old is None or new == 0 or old == 0:
        raise UnprovenError("the shape that it resizes is not known")
    return new / old


@functools.cache
def _whole(factor: float, coordinates: bytes, nearest: bytes) -> bool:
    """Whether each value is repeated ``factor`` times, whichever way executors divide."""
    if factor != int(factor) or factor < 1:
        return False
    index = np.arange(LONGEST)
    single, half = index.astype(np.float32), np.float32(0.5 if coordinates == b"half_pixel" else 0)
    by = np.float32(factor)
    places = [(single + half) / by - half, (single + half) * (np.float32(1) / by) - half]
    return all((_nearest(place, nearest) == index // int(factor)).all() for place in places)


def _nearest(place: Array, mode: bytes) -> Array:
    if mode == b"floor":
        return np.floor(place)
    # a tie is rounded down by the one mode and up by the other: neither may occur
    down, up = np.ceil(place - np.float32(0.5)), np.floor(place + np.float32(0.5))
    return np.where(down == up, down, -1)


def _pooled_max(call: Call) -> Grid:
    """A window without a single value would hold the lowest number of its type."""
    if "Pad" in call.first.through:
        raise UnprovenError("executors may take the zeros padded before it for no values at all")
    check_every_window(call)
    return same(call)


def _reduced_max(call: Call) -> Grid:
    axes_of(call)  # without an axis, or over nothing, executors differ
    return same(call)


_ARRANGED = functools.partial(Declaration, types=KNOWN, moves=True)

MOVING: dict[str, Declaration] = {
    "Identity": _ARRANGED((1, 13, 14, 16, *WIDENED), (1, 1), same),
    "Dropout": _ARRANGED(
        (10, 12, 13, 22),
        (1, 3),
        _dropout,
        {"ratio": anything, "seed": anything},
        types=FLOATS,
    ),
    "Reshape": _ARRANGED((5, 13, 14, *WIDENED), (2, 2), same, {"allowzero": only(0)}),
    "Flatten": _ARRANGED((9, 11, 13, *WIDENED), (1, 1), same, {"axis": anything}),
    "Transpose": _ARRANGED((1, 13, *WIDENED), (1, 1), same, {"perm": anything}),
    "Squeeze": _ARRANGED((11, 13, *WIDENED), (1, 2), _placed, {"axes": anything}),
    "Unsqueeze": _ARRANGED((11, 13, *WIDENED), (1, 2), _placed, {"axes": anything}),
    "Slice": _ARRANGED((10, 11, 13), (3, 5), _placed),
    "Split": _ARRANGED(
        (11, 13, 18),
        (1, 2),
        _split,
        {"axis": anything, "split": anything, "num_outputs": anything},
        outputs=2**16,
    ),
    "Expand": _ARRANGED((8, 13), (2, 2), same),
    "Tile": _ARRANGED((6, 13), (2, 2), same),
    "Gather": _ARRANGED((11, 13), (2, 2), _gather, {"axis": anything}),
    "GatherElements": _ARRANGED((11, 13), (2, 2), _elements, {"axis": anything}),
    "GatherND": _ARRANGED((11, 12, 13), (2, 2), _gathered, {"batch_dims": only(0)}),
    "Concat": Declaration((11, 13), (2, math.inf), _concatenated, {"axis": anything}, KNOWN),
    "Where": Declaration((9, 16), (3, 3), _chosen, types=KNOWN),
    "DepthToSpace": _ARRANGED(
        (11, 13),
        (1, 1),
        same,
        {"blocksize": anything, "mode": only(b"DCR", b"CRD")},
        types=FLOATS,
    ),
    "SpaceToDepth": _ARRANGED((1, 13), (1, 1), same, {"blocksize": anything}, types=FLOATS),
    "Pad": Declaration(
        (11, 13, 18, *WIDENED),
        (2, 4),
        _padded,
        {"mode": only(b"constant", b"edge", b"reflect", b"wrap")},
    ),
    "Resize": _ARRANGED(
        (11, 13, 18, 19),
        (1, 4),
        _resized,
        {
            "mode": only(b"nearest"),
            "coordinate_transformation_mode": only(b"asymmetric", b"half_pixel"),
            "nearest_mode": only(b"floor", b"round_prefer_floor", b"round_prefer_ceil"),
            "cubic_coeff_a": anything,
            "exclude_outside": only(0),
            "extrapolation_value": only(0.0),
            "antialias": only(0),
            "keep_aspect_ratio_policy": only(b"stretch"),
        },
        types=FLOATS,
    ),
    "MaxPool": _ARRANGED(
        (8, 10, 11, 12, 22),
        (1, 1),
        _pooled_max,
        {
            "kernel_shape": positive,
            "strides": positive,
            "dilations": positive,
            "pads": not_negative,
            "ceil_mode": only(0, 1),
            "auto_pad": only(b"NOTSET"),
            "storage_order": only(0),
        },
        types=FLOATS,
    ),
    "GlobalMaxPool": _ARRANGED((1, 22), (1, 1), same, types=FLOATS),
    **dict.fromkeys(
        ("ReduceMax", "ReduceMin"),
        _ARRANGED(
            (11, 12, 13, 18, 20),
            (1, 2),
            _reduced_max,
            {"axes": anything, "keepdims": anything, "noop_with_empty_axes": only(0)},
        ),
    ),
}
