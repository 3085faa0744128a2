"""https://arxiv.org/abs/2303.08253: R2 loss, range restriction loss (Kundu et al., 2023).

Adds strength * sum over layers of max |w| (the L-infinity form of three, by the abstract; the sum
and the strength are ours), so that outliers, which no bin should be wasted on, are pulled in while
the float model trains.
"""

from __future__ import annotations

from torch import Tensor, nn

from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Option, Step, Strategy, summed, weighted_layers


@STRATEGIES.register("range_loss")
class RangeLoss(Strategy):
    """The largest weight of each layer costs what it is."""

    summary = "float training with a penalty on the largest weight of each layer, then PTQ"
    paper = "https://arxiv.org/abs/2303.08253"
    options = {"strength": Option(0.01, 0, 1000, "factor of the largest weights in the loss")}

    def loss(self, model: nn.Module, step: Step) -> Tensor | None:
        largest = [layer.weight.abs().max() for layer in weighted_layers(model)]
        return self.values["strength"] * summed(largest)
