"""weight_norm under quantization-aware training: "weight_norm+qat"."""

from __future__ import annotations

from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.composed import composed
from qstrategies.strategies.qat import Qat
from qstrategies.strategies.weight_norm import WeightNorm

SUMMARY = "QAT from the weight_norm float model, weight_norm still in force"
STRATEGIES.register("qat_weight_norm")(composed({"weight_norm": WeightNorm, "qat": Qat}, SUMMARY))
