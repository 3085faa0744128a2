"""https://arxiv.org/abs/2407.11062: integers frozen, steps trained (Chen et al., EfficientQAT).

The second phase (section 3.3): with the integers q fixed, ``w = s q``, so that d s gets q times the
gradient of w; no other parameter is trained. Published: the integers of the first phase, which
trains blocks; AdamW, rate 1e-5 to 2e-5, one epoch. Here the integers are those of a strategy that
it is composed with ("adaround+efficient_qat"), else the nearest, and s begins at ``w q / q q``; the
steps of activations, which stay in float there, are trained too; batch normalization stays as it
is. s is learned by its logarithm (``quantization/learned.py``), at a rate of its own.
"""

from __future__ import annotations

from torch import nn

from qstrategies.quantization.frozen import FrozenStep
from qstrategies.quantization.integer_graph import IntegerGraph
from qstrategies.quantization.learned import learned_parameters
from qstrategies.quantization.qat import FakeQuantizedModel
from qstrategies.quantization.quantizers import QuantizerSite, WeightQuantizer
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.lsq import Lsq


@STRATEGIES.register("efficient_qat")
class EfficientQat(Lsq):
    """Nothing but the steps of weights and activations is trained."""

    summary = "QAT of the steps alone, the integers of weights frozen (EfficientQAT)"
    paper = "https://arxiv.org/abs/2407.11062"

    def weight_quantizer(
        self, site: QuantizerSite, default: WeightQuantizer
    ) -> WeightQuantizer | None:
        return FrozenStep(default, site)

    def begin(self, model: FakeQuantizedModel, start: IntegerGraph) -> None:
        integers = {layer.name: layer.rounded_layer.levels for layer in start.layers}
        for layer in model.layers:
            if isinstance(layer.quantizer, FrozenStep):
                layer.quantizer.begin(layer, integers[layer.quantizer.name])

    def parametrize(self, model: nn.Module) -> None:
        learned = {id(each) for each in learned_parameters(model)}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in learned)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.stays_in_eval = True  # type: ignore[assignment]
