"""https://arxiv.org/abs/2203.11086: oscillations in QAT (Nagel et al., 2022), freezing (4.3).

f = m o + (1 - m) f per weight, where o says whether its integer changed back at this step; where f
exceeds a threshold, the weight is frozen at the rounded average of its integers (algorithm 1). The
threshold falls as a cosine from ``first`` to ``last``, after a quarter of the training. Steps are
LSQ's. For depthwise networks of at most 4 bits; ``norm_batches`` belongs to it.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from qstrategies.quantization.learned import annealed
from qstrategies.quantization.oscillation import FreezingStep
from qstrategies.quantization.qat import FakeQuantizedModel
from qstrategies.quantization.quantizers import QuantizerSite, WeightQuantizer
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Option, Step
from qstrategies.strategies.lsq import Lsq


@STRATEGIES.register("oscillation_freezing")
class OscillationFreezing(Lsq):
    """LSQ whose weights are frozen one by one where their integers jump to and fro."""

    summary = "LSQ with oscillating weights frozen at an integer"
    paper = "https://arxiv.org/abs/2203.11086"
    options = {
        **Lsq.options,
        "momentum": Option(0.001, 0, 1, "of the moving averages: the weight of the last step"),
        "first": Option(0.1, 0, 1, "frequency above which weights are frozen at first"),
        "last": Option(0.01, 0, 1, "frequency above which weights are frozen at the end"),
        "start": Option(0.25, 0, 1, "part of the training before the first is frozen"),
    }

    def weight_quantizer(
        self, site: QuantizerSite, default: WeightQuantizer
    ) -> WeightQuantizer | None:
        layer: Any = site.layer
        assert site.weight is not None
        return FreezingStep(default, len(site.weight), layer.weight)

    def after_step(self, model: nn.Module, step: Step) -> None:
        assert isinstance(model, FakeQuantizedModel)
        values = self.values
        share = annealed(step.progress, values["start"])
        threshold = values["first"] + share * (values["last"] - values["first"])
        begun = step.progress >= values["start"]
        for layer in model.layers:
            if isinstance(layer.quantizer, FreezingStep):
                layer.quantizer.follow(layer, values["momentum"], threshold if begun else None)
