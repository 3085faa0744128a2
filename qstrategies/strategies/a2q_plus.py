"""https://arxiv.org/abs/2401.10432: A2Q+ (Colbert et al., 2024): as a2q, but zero-centred.

w = v - mean(v) per output channel (section 3.1), so that sums of either sign have half of the l1
norm: T = (2^P - 2) / (2^N - 1) (equation 8), twice that of a2q. Training begins at the point of the
l1 ball of radius T s that is nearest to the float weights (section 3.2).
"""

from __future__ import annotations

import torch
from torch import nn

from qstrategies.quantization.accumulators import bounded_step, onto_ball
from qstrategies.quantization.qat import FakeQuantizedModel
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.a2q import A2q


@STRATEGIES.register("a2q_plus")
class A2qPlus(A2q):
    """Twice the norm for the same accumulator, as weights of a channel add up to zero."""

    summary = "a2q with weights of mean zero, which have twice the room"
    group = "accumulators"
    paper = "https://arxiv.org/abs/2401.10432"
    options = dict(A2q.options)
    centred = True

    @torch.no_grad()
    def parametrize(self, model: nn.Module) -> None:
        assert isinstance(model, FakeQuantizedModel)
        for layer in model.layers:
            steps, unit = layer.steps
            rows = steps.flatten(1)
            rows = rows - rows.mean(1, keepdim=True)
            nearest = onto_ball(rows, bounded_step(layer).largest_norm)
            layer.layer.weight.copy_(nearest.reshape(steps.shape) * unit)
