"""w = g v / ||v|| per output channel (Salimans and Kingma, arXiv 1602.07868, section 2)."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrizations

from qstrategies.errors import InputError
from qstrategies.operators.transposed import is_transposed
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Strategy, plain_layers


@STRATEGIES.register("weight_norm")
class WeightNorm(Strategy):
    """Length and direction of each output channel's weights are learned apart; folded before
    quantization. Channels of transposed convolutions in groups share their length."""

    summary = "weights as length times direction per output channel, then PTQ: the post's cure"
    paper = "https://arxiv.org/abs/1602.07868"

    def parametrize(self, model: nn.Module) -> None:
        layers = plain_layers(model, "weight_norm makes one of its own of it")
        for name, layer in layers.items():
            dim = 1 if is_transposed(layer) else 0
            channels = layer.weight.detach().transpose(0, dim).flatten(1)
            if not channels.any(1).all():
                raise InputError(
                    f"a channel of {name!r} has only weights of zero, which have no direction for "
                    "weight_norm: take another strategy, or leave the channel out of the model"
                )
            parametrizations.weight_norm(layer, dim=dim)
