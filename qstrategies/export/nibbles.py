"""Integers of 4 bits, two in a byte."""

from __future__ import annotations

import numpy as np

from qstrategies.operators.base import Array


def fits_nibbles(array: Array) -> bool:
    """Whether 4 bits hold all of ``array``."""
    return bool(-8 <= array.min() <= array.max() <= 7)


def nibbles(array: Array) -> bytes:
    """``array``, which fits, in its order, the first of two low."""
    flat = np.pad(array.reshape(-1), (0, array.size % 2)).astype(np.uint8)
    return (flat[0::2] & 15 | flat[1::2] << 4).tobytes()
