"""Quantization-aware training from the first step."""

from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Strategy


@STRATEGIES.register("qat_scratch")
class QatScratch(Strategy):
    """As long as the baseline's float training, with fake quantizers from random weights on."""

    summary = "QAT from random weights, for as long as the baseline trains in float"
    paper = "https://arxiv.org/abs/1712.05877"
    starts_from = "no_norm"
    from_scratch = True
    quantize_aware = True
    observer = "moving_average"
