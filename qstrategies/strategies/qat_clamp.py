"""Clamped weights under quantization-aware training: "clamp+qat"."""

from __future__ import annotations

from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.clamp import Clamp
from qstrategies.strategies.composed import composed
from qstrategies.strategies.qat import Qat

SUMMARY = "QAT from the clamped float model, the weights still clamped"
STRATEGIES.register("qat_clamp")(composed({"clamp": Clamp, "qat": Qat}, SUMMARY))
