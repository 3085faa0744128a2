"""Running statistics of batch normalization, measured anew for the weights that training ended
with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qstrategies.quantization.exact_forms import NORM_KINDS
from qstrategies.quantization.qat import FakeQuantizedModel


class _Statistics:
    """Mean and variance per channel of what flows into ``norm``, averaged over batches."""

    def __init__(self, norm: Any) -> None:
        self.norm, self.batches = norm, 0
        self.mean = torch.zeros_like(norm.running_mean)
        self.variance = torch.zeros_like(norm.running_var)
        self.momentum, norm.momentum = norm.momentum, 0.0  # those in use stay what they are
        self.handle = norm.register_forward_pre_hook(self._look)
        norm.train()

    def _look(self, _: Any, inputs: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0].float().transpose(0, 1).flatten(1), 1)
        self.batches += 1
        self.mean += (mean - self.mean) / self.batches
        self.variance += (variance - self.variance) / self.batches

    def finish(self) -> None:
        self.handle.remove()
        self.norm.momentum = self.momentum
        self.norm.running_mean.copy_(self.mean)
        self.norm.running_var.copy_(self.variance)
        self.norm.eval()


@torch.no_grad()
def reestimate(model: FakeQuantizedModel, batches: Sequence[tuple[Tensor, ...]]) -> None:
    """Set the running statistics of ``model`` to the averages over ``batches`` of the mean and of
    the unbiased variance that a batch has, all else in evaluation mode. In place.

    Layers keep the statistics they are quantized with until all are measured; what the user has
    frozen stays.
    """
    model.eval()
    norms = [each for each in model.forms.graph.modules() if isinstance(each, NORM_KINDS)]
    measured = [_Statistics(each) for each in norms if not getattr(each, "stays_in_eval", False)]
    for batch in batches:
        model.view(*batch)
    for statistics in measured:
        statistics.finish()
