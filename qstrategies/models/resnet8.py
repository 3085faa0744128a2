"""ResNet-8 of the MLPerf Tiny benchmark (Banbury et al., https://arxiv.org/abs/2106.07597), for 28
x 28 grey images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qstrategies.models import MODELS


class Block(nn.Module):
    """Two 3x3 convolutions with BN and a shortcut, which is a 1x1 convolution where the shape
    changes (He et al., https://arxiv.org/abs/1512.03385). Shape: [N, inputs, H, W] -> [N, outputs,
    H / stride, W / stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = (
            nn.Conv2d(inputs, outputs, 1, stride)
            if inputs != outputs or stride != 1
            else nn.Identity()
        )
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(branch + self.shortcut(x))


@MODELS.register("resnet8")
class ResNet8(nn.Module):
    """conv 16, then blocks of 16, 32 and 64 channels, global average, linear; 78 thousand
    parameters.

    Shape: images [N, 1, 28, 28] in [0, 1] -> logits [N, 10].
    """

    input_shape = (1, 28, 28)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.blocks = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
        self.average = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        features = self.blocks(self.relu(self.bn(self.conv(image))))
        return self.fc(torch.flatten(self.average(features), 1))
