"""Quantization-aware training from the float checkpoint (Jacob et al., arXiv 1712.05877, section
3)."""

from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Strategy


@STRATEGIES.register("qat")
class Qat(Strategy):
    """Fake quantizers in the forward pass, straight-through gradients, BN folded."""

    summary = "QAT from the baseline's float model"
    paper = "https://arxiv.org/abs/1712.05877"
    starts_from = "no_norm"
    quantize_aware = True
    observer = "moving_average"
