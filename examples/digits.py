"""The network and the data of the examples, in the place of yours."""

import torch
from torch import Tensor, nn

import qstrategies as qs

PIXEL_SCALE = 1 / 255
"""What one step of a pixel is worth to the network."""


def network() -> nn.Module:
    """A small convolutional network with random weights."""
    torch.manual_seed(0)
    model: nn.Module = qs.MODELS.get("cnn")()
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def batches(count: int, size: int = 64) -> list[tuple[Tensor, Tensor]]:
    """``count`` batches of MNIST: images [size, 1, 28, 28] in [0, 1] and their labels [size]."""
    split = qs.DATASETS.get("mnist")().splits["train"]
    images = split.images[: count * size].contiguous(memory_format=torch.channels_last)
    labels = split.labels[: count * size]
    return list(zip((images * PIXEL_SCALE).split(size), labels.split(size), strict=True))
