"""The control for QAT: the float model trained on for as long, then post-training quantization."""

from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Course, Strategy


@STRATEGIES.register("finetune")
class Finetune(Strategy):
    """A gain of QAT that this shows too is a gain of training longer, not of quantization-aware
    training."""

    summary = "the baseline trained on for as long as qat, in float, then PTQ: the control for qat"
    group = "baselines"
    course = Course(parent="no_norm", schedule="tuning")
