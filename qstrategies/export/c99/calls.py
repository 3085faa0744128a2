"""Each kind of node as data and a call of its kernel."""

from __future__ import annotations

import math
from collections.abc import Callable

from qstrategies.export.c99 import dimensions, windows
from qstrategies.export.c99.piece import Piece, Place
from qstrategies.specification.program import (
    Addition,
    AveragePool,
    Clip,
    Concatenation,
    Convolution,
    Extremum,
    Linear,
    MaxPool,
    Mean,
    Move,
    Node,
    Product,
    Reshape,
    Stored,
    Table,
    TransposedConvolution,
)


def _concatenation(place: Place) -> Piece:
    node: Concatenation = place.node
    rows = math.prod(node.output.shape[: node.axis])
    whole = node.output.size // rows
    calls, first = [], 0
    for tensor, x in zip(node.inputs, place.x, strict=True):
        row = tensor.size // rows
        calls.append(f"concatenation({x}, {place.y}, {rows}, {row}, {whole}, {first});")
        first += row
    return Piece((), tuple(calls), ("concatenation",))


def _clip(place: Place) -> Piece:
    node: Clip = place.node
    return place.plain("clip", node.output.size, node.low, node.high)


def _table(place: Place) -> Piece:
    node: Table = place.node
    return place.plain("table", node.output.size, place.array("uint8_t", "values", node.values))


def _stored(place: Place) -> Piece:
    place.array("uint8_t", "stored", place.node.values)
    return Piece(tuple(place.constants))


def _reshape(_: Place) -> Piece:
    """The same bytes under another name: see ``arena``."""
    return Piece()


CALLS: dict[type[Node], Callable[[Place], Piece]] = {
    Convolution: windows.convolution,
    TransposedConvolution: windows.convolution,
    Linear: windows.linear,
    Addition: dimensions.addition,
    Product: dimensions.product,
    AveragePool: windows.average_pool,
    Mean: dimensions.mean,
    MaxPool: windows.max_pool,
    Clip: _clip,
    Extremum: dimensions.extremum,
    Concatenation: _concatenation,
    Reshape: _reshape,
    Move: dimensions.move,
    Table: _table,
    Stored: _stored,
}
