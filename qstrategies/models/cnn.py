"""The post's network: two convolutional blocks and a linear classifier, 35 thousand parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qstrategies.models import MODELS


@MODELS.register("cnn")
class CNN(nn.Module):
    """conv 1-32, BN, ReLU, pool; conv 32-64, BN, ReLU, pool; linear 1600-10.

    Args:
        dropout_rate: probability of dropping a feature before the linear layer.

    Shape: images [N, 1, 28, 28] in [0, 1] -> logits [N, 10].
    """

    input_shape = (1, 28, 28)

    def __init__(self, dropout_rate: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, kernel_size=3)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3)
        self.bn2 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2)
        self.dropout = nn.Dropout(dropout_rate) if dropout_rate else nn.Identity()
        self.fc = nn.Linear(64 * 5 * 5, 10)

    def forward(self, image: Tensor) -> Tensor:
        features = self.pool(self.relu(self.bn1(self.conv1(image))))
        features = self.pool(self.relu(self.bn2(self.conv2(features))))
        return self.fc(self.dropout(torch.flatten(features, 1)))
