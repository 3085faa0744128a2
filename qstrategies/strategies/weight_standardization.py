"""https://arxiv.org/abs/1903.10520: weight standardization (Qiao et al., 2019).

w = (v - mean(v)) / (std(v) + 1e-5) per output channel (equations 7 and 8, std unbiased as in the
authors' code), only in front of batch normalization, which takes the scale out again: of
convolutions that a batch normalization of as many channels is registered right behind, with more
than one weight to a channel. Folded before quantization.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from qstrategies.operators.transposed import is_transposed
from qstrategies.quantization.exact_forms import output_rows
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Strategy, weighted_layers

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Standardized(nn.Module):
    """Mean 0 and deviation 1 per output channel of ``layer``, ``forward(v)`` in the shape of its
    weight."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.groups = layer.groups if is_transposed(layer) else None

    def forward(self, weight: Tensor) -> Tensor:
        rows, over = weight, tuple(range(1, weight.dim()))
        if self.groups is not None:  # [groups, in_channels, out_channels, ...] of a group
            rows = weight.unflatten(0, (self.groups, -1))
            over = (1, *range(3, rows.dim()))
        centred = rows - rows.mean(over, keepdim=True)
        return (centred / (rows.std(over, keepdim=True) + 1e-5)).reshape(weight.shape)


@STRATEGIES.register("weight_standardization")
class WeightStandardization(Strategy):
    """No output channel has larger weights than another."""

    summary = "standardized weights in front of batch normalization, then PTQ"
    paper = "https://arxiv.org/abs/1903.10520"

    def parametrize(self, model: nn.Module) -> None:
        leaves: list[Any] = [each for each in model.modules() if not list(each.children())]
        following = dict(zip(map(id, leaves), leaves[1:], strict=False))
        for layer in weighted_layers(model):
            norm: Any = following.get(id(layer))
            rows = output_rows(layer).flatten(1)
            fits = isinstance(norm, NORMS) and norm.num_features == len(rows)
            if fits and norm.training and rows.shape[1] > 1:  # a frozen one keeps the scale
                parametrize.register_parametrization(layer, "weight", Standardized(layer))
