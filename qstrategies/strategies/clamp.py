"""Weights projected onto [-threshold, threshold] after every step (the post's quick fix; WRPN,
arXiv 1709.01134)."""

from __future__ import annotations

from torch import nn

from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Option, Step, Strategy, weighted_layers


@STRATEGIES.register("clamp")
class Clamp(Strategy):
    """Projected gradient descent on the box of small weights."""

    summary = "every weight clamped to [-threshold, threshold] after each step, then PTQ"
    paper = "https://arxiv.org/abs/1709.01134"
    options = {"threshold": Option(0.1, 1e-4, 1e4, "largest absolute weight")}

    def after_step(self, model: nn.Module, step: Step) -> None:
        for layer in weighted_layers(model):
            layer.weight.clamp_(-self.values["threshold"], self.values["threshold"])
