"""Running statistics of batch normalization, measured anew for the weights that training ended
with.

Their integers stay: batch normalization is folded into the weights before they are rounded, so that
other statistics would round them anew, and a percent of other integers costs a 3-bit depthwise
network five points. So steps follow the variances instead, channel by channel; where a whole tensor
has one step, that cannot be, and only means are measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qstrategies.quantization.exact_forms import NORM_KINDS, norm_factor
from qstrategies.quantization.fake_quantized import FakeQuantizedLayer
from qstrategies.quantization.qat import FakeQuantizedModel
from qstrategies.quantization.quantizers import WeightQuantizer


class _Statistics:
    """Mean and variance per channel of what flows into ``norm``, averaged over batches."""

    def __init__(self, norm: Any) -> None:
        self.norm, self.batches = norm, 0
        self.mean = torch.zeros_like(norm.running_mean)
        self.variance = torch.zeros_like(norm.running_var)
        self.momentum, norm.momentum = norm.momentum, 0.0  # those in use stay what they are
        self.handle = norm.register_forward_pre_hook(self._look)
        norm.train()

    def _look(self, _: Any, inputs: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0].float().transpose(0, 1).flatten(1), 1)
        self.batches += 1
        self.mean += (mean - self.mean) / self.batches
        self.variance += (variance - self.variance) / self.batches

    def finish(self, *, with_variance: bool) -> None:
        self.handle.remove()
        self.norm.momentum = self.momentum
        self.norm.running_mean.copy_(self.mean)
        if with_variance:
            self.norm.running_var.copy_(self.variance)
        self.norm.eval()


class FixedStep(WeightQuantizer):
    """``steps`` [out_channels] of the weight as it is exported, whatever it is."""

    steps: Tensor

    def __init__(self, like: WeightQuantizer, steps: Tensor) -> None:
        super().__init__(like.bits, **like.settings)
        self.name, self.largest_bias = like.name, like.largest_bias
        self.register_buffer("steps", steps)

    def step(self, _: Tensor) -> Tensor:
        return self.steps


@torch.no_grad()
def reestimate(model: FakeQuantizedModel, batches: Sequence[tuple[Tensor, ...]]) -> None:
    """Set the running statistics of ``model`` to the averages over ``batches`` of the mean and of
    the unbiased variance that a batch has, all else in evaluation mode. In place.

    Layers keep the statistics they are quantized with until all are measured; what the user has
    frozen stays. Weights are plain parameters.
    """
    model.eval()
    norms = [each for each in model.forms.graph.modules() if isinstance(each, NORM_KINDS)]
    measured = [_Statistics(each) for each in norms if not getattr(each, "stays_in_eval", False)]
    for batch in batches:
        model.view(*batch)
    by_norm = {id(layer.norm): layer for layer in model.layers if layer.norm is not None}
    for statistics in measured:
        layer = by_norm.get(id(statistics.norm))
        if layer is None or not layer.quantizer.per_channel:
            statistics.finish(with_variance=layer is None)
        else:
            _keep_integers(model, layer, statistics)


def _keep_integers(
    model: FakeQuantizedModel, layer: FakeQuantizedLayer, statistics: _Statistics
) -> None:
    weight, unit = layer.steps
    kept = layer.quantizer.integers(weight, torch.ones_like(unit)) * unit
    statistics.finish(with_variance=True)
    layer.layer.weight.copy_(kept)
    steps = (unit * norm_factor(layer.layer, layer.norm)).abs().flatten() * layer.quantizer.unit
    fixed = FixedStep(layer.quantizer, steps)
    weights = model.forms.weights
    weights.update({name: fixed for name, each in weights.items() if each is layer.quantizer})
    layer.quantizer = fixed
