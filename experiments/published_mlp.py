"""The fully connected networks of Brevitas' example bnn_pynq (https://github.com/Xilinx/brevitas,
after Umuroglu et al., https://arxiv.org/abs/1612.07119) by their recipe.

Three hidden layers, each linear without bias, batch norm, quantizer, dropout 0.2; the input too is
quantized and dropped from; the logits are normalized as one tensor. Weights begin uniform in [-1,
1] and are put back there after each step; all scales are 1. Squared hinge loss of targets +1 and
-1, Adam at 0.02, halved each 40 epochs, at once the first time; batches of 100.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from published_training import Recipe
from torch import Tensor, nn

from qstrategies.quantization.quantizers import WeightQuantizer
from qstrategies.quantization.scales import fake_quantize

CLASSES, HIDDEN_LAYERS, DROPOUT = 10, 3, 0.2
RATE, HALVING = 0.02, 40


class Sign(torch.autograd.Function):
    """-1 or 1 (of 0), with the gradient 1 in [-1, 1] and 0 outside: one bit, which the package's
    quantizers do not have."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype).mul_(2).sub_(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return gradients[0] * (x.abs() <= 1)


def sign(x: Tensor) -> Tensor:
    """``x`` in one bit."""
    result: Tensor = Sign.apply(x)
    return result


class UnitStep(WeightQuantizer):
    """The package's weight quantizer with the constant step 1: two bits are -1, 0 and 1."""

    def __init__(self) -> None:
        super().__init__(2, per_channel=False, exact=False)
        self.register_buffer("one", torch.ones(1), persistent=False)
        self.one: Tensor

    def step(self, rows: Tensor) -> Tensor:
        return self.one


class Activation(nn.Module):
    """Values in ``bits`` bits at scale 1."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("one", torch.ones(1), persistent=False)
        self.one: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return sign(x) if self.bits == 1 else fake_quantize(x, self.one, 0, -1, 1)


class Dropout(nn.Module):
    """Dropout at a fifth; its random 16-bit words cost an eighth of torch's Bernoulli numbers."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.int16)[: x.numel()].view(x.shape) >= round(DROPOUT * 2**16) - 2**15
        return x * kept / (1 - DROPOUT)


class Linear(nn.Linear):
    """Without bias, its weights in ``bits`` bits."""

    def __init__(self, inputs: int, outputs: int, bits: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        nn.init.uniform_(self.weight, -1, 1)
        self.rounded = sign if bits == 1 else UnitStep()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.rounded(self.weight))


class TensorNorm(nn.BatchNorm1d):
    """Batch normalization of all values of a tensor by one mean and one variance."""

    def __init__(self) -> None:
        super().__init__(1, eps=1e-4)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.reshape(-1, 1)).reshape(input.shape)


@dataclass(frozen=True)
class Mlp(Recipe):
    """``width`` hidden units a layer: bits of 1 are the levels -1 and 1, of 2 they are -1, 0, 1."""

    width: int
    weight_bits: int
    activation_bits: int
    input_bits: int

    batch: ClassVar[int] = 100

    def build(self) -> nn.Module:
        """Rounded values [N, 784] -> scores [N, 10]."""
        layers: list[nn.Module] = [Dropout()]
        inputs = 784
        for _ in range(HIDDEN_LAYERS):
            layers += [
                Linear(inputs, self.width, self.weight_bits),
                nn.BatchNorm1d(self.width),
                Activation(self.activation_bits),
                Dropout(),
            ]
            inputs = self.width
        return nn.Sequential(*layers, Linear(inputs, CLASSES, self.weight_bits), TensorNorm())

    def inputs(self, images: Tensor) -> Tensor:
        """In [-1, 1], rounded to ``input_bits``: int8 [N, 784]."""
        values = images.flatten(1).float() / 127.5 - 1
        return Activation(self.input_bits)(values).to(torch.int8)

    def rate(self, epoch: int) -> float:
        return RATE / 2.0 ** (epoch // HALVING + 1)

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        return squared_hinge(scores, labels)

    def after_step(self, model: nn.Module) -> None:
        for layer in model.modules():
            if isinstance(layer, Linear):
                layer.weight.clamp_(-1, 1)


def squared_hinge(scores: Tensor, labels: Tensor) -> Tensor:
    """The mean of max(0, 1 - t y)^2 over examples and classes, t = 1 for the label and else -1."""
    targets = 2 * nn.functional.one_hot(labels, CLASSES) - 1
    return (1 - targets * scores).clamp(min=0).square().mean()


MLPS = (
    Mlp("TFC 1W1A", 1000, 93.17, width=64, weight_bits=1, activation_bits=1, input_bits=1),
    Mlp("TFC 1W2A", 500, 94.79, width=64, weight_bits=1, activation_bits=2, input_bits=2),
    Mlp("TFC 2W2A", 500, 96.60, width=64, weight_bits=2, activation_bits=2, input_bits=2),
    Mlp("SFC 1W1A", 500, 97.81, width=256, weight_bits=1, activation_bits=1, input_bits=1),
    Mlp("SFC 1W2A", 500, 98.31, width=256, weight_bits=1, activation_bits=2, input_bits=2),
    Mlp("SFC 2W2A", 500, 98.66, width=256, weight_bits=2, activation_bits=2, input_bits=2),
)
