"""A picture of Pillow as numbers that mean intensities, whatever it is stored as."""

from __future__ import annotations

import numpy as np
from PIL import Image

from qstrategies.errors import InputError

CONVERTED = {"1": "L", "P": "RGB", "PA": "RGB"}
"""Modes whose numbers are no intensities of 8 bits, and what they become."""


def with_bytes(image: Image.Image) -> Image.Image:
    """``image`` with channels of 8 bits: of 16 bits their higher half, as Pillow reads colours of
    16 bits; of a palette its colours; else as it is.

    Raises ``InputError`` for values whose range nobody knows.
    """
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PNG"):
        return Image.fromarray((np.asarray(image).astype(np.int32) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise InputError(
            f"its values have 32 bits (mode {image.mode!r}) and no fixed range: scale them to "
            "bytes, or give the pictures to from_arrays"
        )
    return image.convert(CONVERTED[image.mode]) if image.mode in CONVERTED else image
