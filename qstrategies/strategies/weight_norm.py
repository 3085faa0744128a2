"""w = g v / ||v|| per output channel (Salimans and Kingma, arXiv 1602.07868, section 2)."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrizations

from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Strategy, plain_layers


@STRATEGIES.register("weight_norm")
class WeightNorm(Strategy):
    """Length and direction of each output channel's weights are learned apart; folded before
    quantization."""

    summary = "weights as length times direction per output channel, then PTQ: the post's cure"
    paper = "https://arxiv.org/abs/1602.07868"

    def parametrize(self, model: nn.Module) -> None:
        for layer in plain_layers(model, "weight_norm"):
            parametrizations.weight_norm(layer)
