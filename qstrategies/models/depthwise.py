"""A depthwise-separable network as MobileNet (Howard et al., https://arxiv.org/abs/1704.04861), for
28 x 28 grey images.

Each channel of a depthwise layer has nine weights and a batch normalization of its own, so that
folded weights differ in size from channel to channel by orders of magnitude: here one scale for a
whole tensor really costs accuracy.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qstrategies.models import MODELS


def separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Depthwise 3x3 and pointwise 1x1 convolution, each with BN and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


@MODELS.register("depthwise")
class DepthwiseSeparable(nn.Module):
    """conv 32 (stride 2), then separable blocks of 64, 128 (stride 2), 128 and 128 channels, global
    average, linear; 49 thousand parameters.

    Shape: images [N, 1, 28, 28] in [0, 1] -> logits [N, 10].
    """

    input_shape = (1, 28, 28)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 32, 3, 2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()
        )
        self.blocks = nn.Sequential(
            separable(32, 64, 1),
            separable(64, 128, 2),
            separable(128, 128, 1),
            separable(128, 128, 1),
        )
        self.average = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(128, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.average(self.blocks(self.stem(image))), 1))
