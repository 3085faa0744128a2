"""Empirical bias correction (Nagel et al., https://arxiv.org/abs/1906.04721, section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from qstrategies.quantization.propagate import RoundingProblem
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Course, Strategy


@STRATEGIES.register("bias_correction")
class BiasCorrection(Strategy):
    """``b - E[y_q - y]`` per output channel over the calibration batches, layer by layer (appendix
    D): ``y_q`` of the layer with rounded weights in the network rounded and corrected so far, ``y``
    of the float network, both before the activation."""

    summary = "the mean error of every channel, as calibration shows it, taken off its bias"
    paper = "https://arxiv.org/abs/1906.04721"
    course = Course(parent="no_norm", schedule=None)

    def correct_bias(self, problem: RoundingProblem, weight: Tensor) -> Tensor:
        error, count = torch.zeros_like(problem.bias, dtype=torch.float64), 0
        for x, wanted in problem.batches():
            by_channel = (problem.output(weight, x) - wanted).transpose(0, 1).flatten(1)
            error += by_channel.double().sum(1)
            count += by_channel.shape[1]
        return problem.bias - (error / max(1, count)).float()
