"""Quantization-aware training from the first step."""

from __future__ import annotations

from dataclasses import replace

from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import QAT, Strategy


@STRATEGIES.register("qat_scratch")
class QatScratch(Strategy):
    """As long as the baseline's float training, with fake quantizers from random weights on."""

    summary = "QAT from random weights, for as long as the baseline trains in float"
    paper = "https://arxiv.org/abs/1712.05877"
    course = replace(QAT, schedule="training", fresh=True)
    observer = "moving_average"
