"""DS-CNN, the keyword spotting network of MLPerf Tiny (Banbury et al.,
https://arxiv.org/abs/2106.07597; after Zhang et al., https://arxiv.org/abs/1711.07128)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qstrategies.models import MODELS
from qstrategies.models.depthwise import separable

CHANNELS = 64


@MODELS.register("ds_cnn")
class DSCNN(nn.Module):
    """conv 10x4 (stride 2), four separable blocks, all of 64 channels, global average, linear; 23
    thousand parameters.

    Dropout as in MLPerf Tiny, 0.2 behind the first layer and 0.4 before the average. Padding keeps
    half of the height and width, rounded up, as there.

    Shape: coefficients [N, 1, 49, 10] in [0, 1] (windows, coefficients) -> logits [N, 10].
    """

    input_shape = (1, 49, 10)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, CHANNELS, (10, 4), 2, padding=(5, 1), bias=False),
            nn.BatchNorm2d(CHANNELS),
            nn.ReLU(),
            nn.Dropout(0.2),
        )
        blocks = [separable(CHANNELS, CHANNELS, 1) for _ in range(4)]
        self.blocks = nn.Sequential(*blocks, nn.Dropout(0.4))
        self.average = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(CHANNELS, 10)

    def forward(self, coefficients: Tensor) -> Tensor:
        features = self.blocks(self.stem(coefficients))
        return self.fc(torch.flatten(self.average(features), 1))
