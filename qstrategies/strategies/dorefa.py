"""https://arxiv.org/abs/1606.06160: DoReFa-Net (Zhou et al., 2016), its weights.

w = m tanh(v) / max |tanh(v)| per layer, rounded to 2^b levels without zero, (2 i - (2^b - 1)) /
(2^b - 1) times m (equation 9, of which 2 quantize_k(w / 2 + 1 / 2) - 1 are the odd integers of
``levels`` "no_zero", ties included); the gradient passes rounding. Published from random weights.

The paper has m = 1, which batch normalization takes out again; here m is the largest weight that
training begins with. With other ``levels`` the same weights are rounded to those, as some libraries
do. First and last layers are rounded too; activations and gradients are not the paper's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import QAT, Strategy, weighted_layers


class Squashed(nn.Module):
    """Weights in [-largest, largest], the long tails drawn in."""

    largest: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("largest", weight.detach().abs().amax())

    def forward(self, weight: Tensor) -> Tensor:
        squashed = torch.tanh(weight)
        top = squashed.abs().amax().clamp(min=torch.finfo(weight.dtype).tiny)
        return self.largest * squashed / top


@STRATEGIES.register("dorefa")
class DoReFa(Strategy):
    """Weights behind a tanh; its own levels are those without zero."""

    summary = "QAT with weights behind a tanh; its own levels are no_zero"
    paper = "https://arxiv.org/abs/1606.06160"
    course = QAT
    observer = "moving_average"

    def parametrize(self, model: nn.Module) -> None:
        for layer in weighted_layers(model):
            parametrize.register_parametrization(layer, "weight", Squashed(layer.weight))
