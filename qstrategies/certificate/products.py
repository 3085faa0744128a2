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
    """Magnitudes of the integers that kernels multiply; None for float weights.

    Kernels multiply what is stored, and subtract the zero point from the sums. Instructions with
    16-bit sums take one signed operand: unsigned weights are first made signed, 128 lower.
    """
    stored = weight.unquantized
    if stored is None:
        return None
    if stored.dtype not in (np.int8, np.uint8):
        raise UnprovenError(f"its weights are stored as {stored.dtype}: expected int8 or uint8")
    lower = 128 if stored.dtype == np.uint8 else 0
    return np.abs(stored.astype(np.int16) - np.int16(lower)).astype(np.uint8)


def pairs_of(sizes: Array) -> tuple[int, ...]:
    """The sum of the two largest of each row of uint8."""
    others = sizes.copy()
    others[np.arange(len(sizes)), sizes.argmax(1)] = 0
    return tuple(np.add(sizes.max(1), others.max(1), dtype=np.uint16).tolist())


def adjacent_of(orders: list[Array]) -> tuple[int, ...]:
    """The largest sum of two neighbours of each row of uint8, over all orders."""
    found = []
    for rows in orders:
        sums = np.add(rows[:, :-1], rows[:, 1:], dtype=np.uint16)
        found.append(
            np.maximum(sums.max(1, initial=0), rows.max(1))
        )  # a single one has no neighbour
    return tuple(np.max(found, 0).tolist())


def kernel_orders(call: Call, array: Array) -> list[Array]:
    """The rows in the orders in which kernels sum: as stored, and with input channels innermost."""
    rows = [by_output(call, array)]
    if call.node.op_type == "Conv":
        rows.append(np.moveaxis(array, 1, -1).reshape(len(array), -1))
    return rows
