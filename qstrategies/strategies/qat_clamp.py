"""Clamped weights under quantization-aware training."""

from __future__ import annotations

from dataclasses import replace

from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import QAT
from qstrategies.strategies.clamp import Clamp


@STRATEGIES.register("qat_clamp")
class QatClamp(Clamp):
    """The clamped float model, trained on with fake quantizers and the same projection."""

    summary = "QAT from the clamped float model, the weights still clamped"
    course = replace(QAT, parent="clamp")
    observer = "moving_average"
