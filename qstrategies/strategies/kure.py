"""https://arxiv.org/abs/2002.07686: robust quantization, one model to rule them all (Shkolnik,
2020).

Adds strength * mean over layers of (Kurt[w] - target)^2 (equations 11 and 12), Kurt[w] = E[((w -
mu) / sigma)^4] with the unbiased sigma, as the authors' code has it; target 1.8 is that of uniform
weights. The first convolution and the last layer are left out there, here too. It fine-tunes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Course, Option, Step, Strategy, weighted_layers


@STRATEGIES.register("kure")
class Kure(Strategy):
    """Weights driven to a uniform distribution, which any step width suits."""

    summary = "fine-tuning towards uniformly distributed weights, then PTQ"
    paper = "https://arxiv.org/abs/2002.07686"
    course = Course(parent="no_norm", schedule="tuning")
    options = {
        "strength": Option(1.0, 0, 1000, "factor of the squared distances in the loss"),
        "target": Option(1.8, 1, 10, "kurtosis that weights shall have"),
    }

    def loss(self, model: nn.Module, step: Step) -> Tensor | None:
        between = [layer.weight for layer in weighted_layers(model)][1:-1]
        spread = [weight for weight in between if weight.std() > 0]  # others have no kurtosis
        apart = [kurtosis(weight) - self.values["target"] for weight in spread]
        return self.values["strength"] * torch.stack(apart).square().mean() if apart else None


def kurtosis(weight: Tensor) -> Tensor:
    """Of all values of ``weight``."""
    return ((weight - weight.mean()) / weight.std()).pow(4).mean()
