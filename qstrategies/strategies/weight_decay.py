"""https://proceedings.neurips.cc/paper/1991/hash/8eefcfdf5990e441f0fb6f3fad709e21-Abstract.html: a
simple weight decay can improve generalization (Krogh and Hertz, 1991), the simplest rival of all.

The optimizer adds decay * w to the gradient of the weights of layers (section 2), or of what a
weight is computed from, not to that of biases and of batch normalization; an optimizer that
decouples it (AdamW) does so here too.
"""

from __future__ import annotations

from torch import nn

from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import (
    Option,
    ParameterGroup,
    Strategy,
    weight_parameters,
    weighted_layers,
)


@STRATEGIES.register("weight_decay")
class WeightDecay(Strategy):
    """Small weights by a pull to zero."""

    summary = "float training with weight decay on the layers, then PTQ"
    paper = (
        "https://proceedings.neurips.cc/paper/1991/hash/8eefcfdf5990e441f0fb6f3fad709e21-"
        "Abstract.html"
    )
    options = {"decay": Option(1e-4, 0, 10, "factor of the weights in their gradient")}

    def parameter_groups(self, model: nn.Module, rate: float) -> list[ParameterGroup]:
        weights = [each for layer in weighted_layers(model) for each in weight_parameters(layer)]
        once = list({id(each): each for each in weights}.values())
        return [ParameterGroup(once, {"weight_decay": self.values["decay"]})]
