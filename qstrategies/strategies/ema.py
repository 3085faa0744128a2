"""https://arxiv.org/abs/1803.05407: averaging weights (Izmailov et al., 2018), over low-precision
training as in SWALP (Yang et al., https://arxiv.org/abs/1904.11943), as an exponential average.

a = decay * a + (1 - decay) * w after every step, of the float weights behind the fake quantizers;
at the end they take the place of w and are quantized once. The decay grows as (1 + n) / (10 + n) to
its value, so that short trainings forget their start; ``norm_batches`` belongs to it.
"""

from __future__ import annotations

import torch
from torch import nn

from qstrategies.quantization.qat import registered
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import QAT, Option, Step, Strategy


@STRATEGIES.register("ema")
class Ema(Strategy):
    """What is quantized is the average of the weights on the way."""

    summary = "QAT whose float weights are averaged over steps, then quantized once"
    paper = "https://arxiv.org/abs/1904.11943"
    course = QAT
    observer = "moving_average"
    options = {"decay": Option(0.98, 0, 0.99999, "what the average keeps of itself per step")}

    def parametrize(self, model: nn.Module) -> None:
        for name, parameter in list(model.named_parameters()):
            model.register_buffer(buffer(name), parameter.detach().clone())

    def after_step(self, model: nn.Module, step: Step) -> None:
        decay = min(self.values["decay"], (1 + step.number) / (10 + step.number))
        for name, parameter in model.named_parameters():
            model.get_buffer(buffer(name)).lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def fold(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if hasattr(model, buffer(name)):
                parameter.copy_(model.get_buffer(buffer(name)))
                delattr(model, buffer(name))
        super().fold(model)


def buffer(name: str) -> str:
    """Where a model in training keeps the average of its parameter ``name``."""
    return f"average_of_{registered(name)}"
