"""Weights projected onto [-threshold, threshold] after every step (the post's quick fix; WRPN,
arXiv 1709.01134); with ``sigma``, onto as many standard deviations of the layer's weights."""

from __future__ import annotations

from torch import nn

from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Option, Step, Strategy, weighted_layers


@STRATEGIES.register("clamp")
class Clamp(Strategy):
    """Projected gradient descent on the box of small weights."""

    summary = "every weight clamped to [-threshold, threshold] after each step, then PTQ"
    paper = "https://arxiv.org/abs/1709.01134"
    options = {
        "threshold": Option(0.1, 1e-4, 1e4, "largest absolute weight"),
        "sigma": Option(0, 0, 100, "largest in standard deviations of the layer; 0: threshold"),
    }

    def after_step(self, model: nn.Module, step: Step) -> None:
        for layer in weighted_layers(model):
            threshold = self.values["threshold"]
            if self.values["sigma"]:
                threshold = self.values["sigma"] * float(layer.weight.std())
            layer.weight.clamp_(-threshold, threshold)
