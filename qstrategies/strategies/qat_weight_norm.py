"""weight_norm under quantization-aware training."""

from __future__ import annotations

from dataclasses import replace

from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import QAT
from qstrategies.strategies.weight_norm import WeightNorm


@STRATEGIES.register("qat_weight_norm")
class QatWeightNorm(WeightNorm):
    """The weight_norm float model, trained on with fake quantizers that see g v / ||v||."""

    summary = "QAT from the weight_norm float model, weight_norm still in force"
    course = replace(QAT, parent="weight_norm")
    observer = "moving_average"
