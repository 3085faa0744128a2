"""Weights that are moved behind their rounding, for strategies that look at the loss around them
(SAQ: Liu et al., arXiv 2111.12273)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qstrategies.quantization.qat import FakeQuantizedModel
from qstrategies.quantization.quantizers import WeightQuantizer


class PerturbedStep(WeightQuantizer):
    """Adds ``shift`` to the rounded weight in training: zeros that receive its gradient, unless one
    is set."""

    def __init__(self, like: WeightQuantizer) -> None:
        super().__init__(like.bits, **like.settings)
        self.shift = torch.zeros(())
        self.given: Tensor | None = None

    def rounded(self, weight: Tensor, scale: Tensor) -> Tensor:
        whole = super().rounded(weight, scale)
        if not self.training:
            return whole
        zeros = torch.zeros_like(whole, requires_grad=True)
        self.shift = zeros if self.given is None else self.given
        return whole + self.shift


def perturb(model: FakeQuantizedModel, loss: Tensor, rho: float) -> None:
    """Set the shifts of ``model`` to ``rho g / |g|``, g the gradient of ``loss`` by all of them; 0
    where ``loss`` does not look at what a layer gives."""
    moved = [each for each in model.modules() if isinstance(each, PerturbedStep)]
    if not moved:
        return
    shifts = [each.shift for each in moved]
    found = torch.autograd.grad(loss, shifts, retain_graph=True, materialize_grads=True)
    norm = torch.stack([each.norm() for each in found]).norm().clamp(min=1e-12)
    for each, gradient in zip(moved, found, strict=True):
        each.given = rho * gradient / norm


def outputs_again(model: FakeQuantizedModel, inputs: tuple[Tensor, ...]) -> Any:
    """What ``model`` gives for ``inputs`` as its weights are moved now, which it then forgets; no
    statistics or ranges change. Computed in the dtype of the inputs."""
    first = inputs[0]
    low = first.dtype in (torch.bfloat16, torch.float16)
    buffers = {name: each.clone() for name, each in model.named_buffers()}
    with torch.autocast(first.device.type, first.dtype if low else None, enabled=low):
        outputs = torch.func.functional_call(model, buffers, inputs)
    for each in model.modules():
        if isinstance(each, PerturbedStep):
            each.given = None
    return outputs
