"""uint8 images as the values that models take."""

from __future__ import annotations

import torch
from torch import Tensor

PIXEL_SCALE = 1 / 255


def to_input(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 images [N, C, H, W] to the values [0, 1] that models take, in channels-last order."""
    values = torch.empty_like(images, dtype=dtype, memory_format=torch.channels_last)
    return values.copy_(images).mul_(PIXEL_SCALE)
