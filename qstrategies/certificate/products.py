"""The products of a layer: which of its weights are summed, and which in pairs of 16 bits."""

from __future__ import annotations

import numpy as np

from qstrategies.certificate.declarations import Call
from qstrategies.certificate.grid import Array, UnprovenError
from qstrategies.certificate.tensors import Constant


def by_output(call: Call, array: Array) -> Array:
    """``array``, laid out as the weight of ``call``, with a row of products per output channel."""
    operator, attributes = call.node.op_type, call.attributes
    if operator == "Conv":
        return array.reshape(len(array), -1)
    if operator == "ConvTranspose":
        groups = attributes["group"]
        grouped = array.reshape(groups, len(array) // groups, *array.shape[1:])
        return grouped.swapaxes(1, 2).reshape(groups * array.shape[1], -1)
    if array.ndim != 2:
        raise UnprovenError(f"its weight has {array.ndim} dimensions: expected 2")
    return array if attributes.get("transB", 0) else array.T


def multiplied(weight: Constant) -> Array | None:
    """The integers that kernels multiply, int8; None for float weights.

    Kernels multiply what is stored, and subtract the zero point from the sums. Instructions with
    16-bit sums take one signed operand: unsigned weights are first made signed, 128 lower.
    """
    stored = weight.unquantized
    if stored is None:
        return None
    if stored.dtype not in (np.int8, np.uint8):
        raise UnprovenError(f"its weights are stored as {stored.dtype}: expected int8 or uint8")
    return stored if stored.dtype == np.int8 else (stored ^ np.uint8(128)).view(np.int8)


def pairs_of(rows: Array) -> tuple[int, ...]:
    """The largest sum of two magnitudes of one sign in each of ``rows``, int8.

    Activations have no sign there: two products of opposite signs sum to less than the larger one.
    """
    others, channels = rows.copy(), np.arange(len(rows))
    for largest, without in ((rows.argmax(1), np.minimum), (rows.argmin(1), np.maximum)):
        others[channels, largest] = without(others[channels, largest], 0)
    return _magnitudes(_extremes(rows) + _extremes(others))


def adjacent_of(orders: list[Array]) -> tuple[int, ...]:
    """The largest sum of two neighbours of one sign in each row of int8, over all orders."""
    found = []
    for rows in orders:
        sums = np.add(rows[:, :-1], rows[:, 1:], dtype=np.int16)
        found += [_extremes(rows), _extremes(sums)]  # a single one has no neighbour
    return _magnitudes(np.concatenate(found))


def _extremes(rows: Array) -> Array:
    """The largest and the smallest of each row, int16 [2, rows]; 0 where none has that sign."""
    return np.stack([rows.max(1, initial=0), rows.min(1, initial=0)]).astype(np.int16)


def _magnitudes(figures: Array) -> tuple[int, ...]:
    return tuple(np.abs(figures).max(0).tolist())


def kernel_orders(call: Call, array: Array) -> list[Array]:
    """The rows in the orders in which kernels sum: as stored, and with input channels innermost."""
    rows = [by_output(call, array)]
    if call.node.op_type == "Conv":
        rows.append(np.moveaxis(array, 1, -1).reshape(len(array), -1))
    return rows
