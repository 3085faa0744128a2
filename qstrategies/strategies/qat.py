"""Quantization-aware training from the float checkpoint (Jacob et al., arXiv 1712.05877, section
3)."""

from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import QAT, Strategy


@STRATEGIES.register("qat")
class Qat(Strategy):
    """Fake quantizers in the forward pass, straight-through gradients, BN folded."""

    summary = "QAT from the baseline's float model"
    paper = "https://arxiv.org/abs/1712.05877"
    course = QAT
    observer = "moving_average"
