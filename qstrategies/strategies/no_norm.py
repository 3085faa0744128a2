"""The baseline: plain training, then post-training quantization."""

from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Strategy


@STRATEGIES.register("no_norm")
class NoNorm(Strategy):
    """Weights grow as they like. Every other strategy is measured against this one."""

    summary = "plain float training, then PTQ: the baseline"
    group = "baselines"
