"""LeNet-5 in one bit by the recipe of https://github.com/jiecaoyu/XNOR-Net-PyTorch (MNIST), after
Rastegari et al. (https://arxiv.org/abs/1603.05279, sections 3.1 and 3.2).

The first convolution and the last layer are float; those between take the signs of what batch norm
gives and have weights of one bit with a scale per output. Adam at 0.01, a tenth of it from epochs
15, 30, 45 and 60 on (counted from 1), weight decay 1e-5, batches of 128, cross entropy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from published_training import Recipe
from torch import Tensor, nn

MEAN, DEVIATION = 0.1307, 0.3081
EPSILON, LEAST_FACTOR = 1e-4, 0.01
RATE, EPOCHS_OF_A_RATE = 0.01, 15


class BinaryWeight(torch.autograd.Function):
    """sign(w) times the mean of abs(w) over a row [N, ...]: section 3.1, with its gradient as the
    implementation has it."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        rows = weight.flatten(1)
        scale = rows.abs().mean(1, keepdim=True)
        ctx.save_for_backward(rows, scale)
        return (rows.sign() * scale).view_as(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        rows, scale = ctx.saved_tensors
        (gradient,) = gradients
        of_rows = gradient.flatten(1)
        of_scale = (of_rows * rows.sign()).mean(1, keepdim=True)
        whole = of_rows * scale + of_scale * rows.sign()
        inputs, size = gradient.shape[1], rows.shape[1]
        return (whole * (1 - 1 / inputs) * size).view_as(gradient)


class BinaryInput(torch.autograd.Function):
    """sign(x), with the gradient 1 inside (-1, 1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return gradients[0] * (x.abs() < 1)


@torch.no_grad()
def centred(weight: Tensor) -> Tensor:
    """``weight`` [N, C, ...] in place without its mean over C, and inside [-1, 1]."""
    return weight.sub_(weight.mean(1, keepdim=True)).clamp_(-1, 1)


def signs(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Of ``x`` after ``norm``, whose factors stay positive."""
    with torch.no_grad():
        norm.weight.clamp_(min=LEAST_FACTOR)
    result: Tensor = BinaryInput.apply(norm(x))
    return result


class BinaryLeNet(nn.Module):
    """Images [N, 1, 28, 28] -> scores [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(1, 20, 5),
            nn.BatchNorm2d(20, eps=EPSILON, affine=False),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.norm2 = nn.BatchNorm2d(20, eps=EPSILON)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.norm3 = nn.BatchNorm2d(50, eps=EPSILON)
        self.linear3 = nn.Linear(50 * 4 * 4, 500)
        self.last = nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = signs(self.first(x), self.norm2)
        weight = BinaryWeight.apply(centred(self.conv2.weight))
        x = nn.functional.conv2d(x, weight, self.conv2.bias).relu()
        x = signs(nn.functional.max_pool2d(x, 2), self.norm3)
        weight = BinaryWeight.apply(centred(self.linear3.weight))
        x = nn.functional.linear(x.flatten(1), weight, self.linear3.bias).relu()
        scores: Tensor = self.last(x)
        return scores


@dataclass(frozen=True)
class LeNet(Recipe):
    """Binary LeNet-5."""

    name: str = "LeNet-5 1W1A"
    epochs: int = 60
    published: float = 99.23

    batch: ClassVar[int] = 128
    weight_decay: ClassVar[float] = 1e-5

    def build(self) -> nn.Module:
        return BinaryLeNet()

    def inputs(self, images: Tensor) -> Tensor:
        return (images.float() / 255 - MEAN) / DEVIATION

    def rate(self, epoch: int) -> float:
        return RATE / 10.0 ** ((epoch + 1) // EPOCHS_OF_A_RATE)

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(scores, labels)

    def after_step(self, model: nn.Module) -> None:
        """Nothing: the next forward centres the weights."""
