"""Inputs as they are kept, as the values that models take, and the normalization of pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qstrategies.errors import InputError

PIXEL_SCALE = 1 / 255


def to_input(
    images: Tensor, dtype: torch.dtype | None = None, input_scale: float = PIXEL_SCALE
) -> Tensor:
    """What a model takes for ``images`` [N, ...]: uint8 pixels times ``input_scale``, in
    channels-last order where they have height and width; real values as they are. Both in ``dtype``
    (default: float32); other integers stay what they are."""
    wanted = dtype or torch.float32
    if images.dtype != torch.uint8:
        return images.to(wanted) if images.is_floating_point() else images
    layout = torch.channels_last if images.dim() == 4 else torch.contiguous_format
    values = torch.empty_like(images, dtype=wanted, memory_format=layout)
    return values.copy_(images).mul_(input_scale)


@dataclass(frozen=True)
class Normalization:
    """``(x - mean) / std``, one number of each for every channel, in the units of the model's
    inputs.

    Raises ``InputError`` for another number of them, or a standard deviation that is not positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise InputError(
                f"{len(self.mean)} means and {len(self.std)} standard deviations: give both"
            )
        wrong = [value for value in self.std if not value > 0]
        if wrong:
            raise InputError(f"standard deviation {wrong[0]!r}: expected a number above zero")

    @property
    def channels(self) -> int:
        """How many means there are."""
        return len(self.mean)

    def tensors(self, rank: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [channels, 1, ...], for single inputs of ``rank``."""
        shape = (-1, *[1] * (rank - 1))
        return torch.tensor(self.mean).reshape(shape), torch.tensor(self.std).reshape(shape)

    def applied(self, values: Tensor) -> Tensor:
        """Of ``values`` [N, channels, ...], float32."""
        mean, std = self.tensors(values.dim() - 1)
        return (values - mean) / std


class Normalized(nn.Module):
    """``model`` of normalized inputs: raw pixels, scaled, go in."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, normalization: Normalization, rank: int) -> None:
        super().__init__()
        mean, std = normalization.tensors(rank)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model((inputs - self.mean) / self.std)
