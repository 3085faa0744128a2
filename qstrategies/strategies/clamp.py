"""Weights projected onto [-threshold, threshold] after every step (the post's quick fix; WRPN,
arXiv 1709.01134); with ``sigma``, onto as many standard deviations of the layer's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Option, Step, Strategy, plain_layers


@STRATEGIES.register("clamp")
class Clamp(Strategy):
    """Projected gradient descent on the box of small weights."""

    summary = "every weight clamped to [-threshold, threshold] after each step, then PTQ"
    paper = "https://arxiv.org/abs/1709.01134"
    options = {
        "threshold": Option(0.1, 1e-4, 1e4, "largest absolute weight"),
        "sigma": Option(0, 0, 100, "largest in standard deviations of the layer; 0: threshold"),
    }

    def parametrize(self, model: nn.Module) -> None:
        _layers(model)  # which refuses early

    def after_step(self, model: nn.Module, step: Step) -> None:
        for layer in _layers(model).values():
            threshold = self.values["threshold"]
            if self.values["sigma"]:
                threshold = self.values["sigma"] * float(layer.weight.std())
            if threshold > 0:  # a single weight and weights of one value have no deviation
                layer.weight.clamp_(-threshold, threshold)


def _layers(model: nn.Module) -> Mapping[str, Any]:
    return plain_layers(model, "clamp cannot move it", shared=True)
