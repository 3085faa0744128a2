"""A float model that shows a model in training what it gives."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from qstrategies.errors import InputError
from qstrategies.quantization.copies import copy_of
from qstrategies.quantization.exact_forms import drop_training_only, fold_norms
from qstrategies.quantization.qat import FakeQuantizedModel
from qstrategies.quantization.structure import leaves


class Teacher:
    """A copy of ``model`` as it is now, in float and in evaluation mode: of a fake-quantized model
    the forms without their quantizers, batch normalization folded, which is faster."""

    def __init__(self, model: nn.Module) -> None:
        if isinstance(model, FakeQuantizedModel):
            forms = copy.deepcopy(model.forms.graph).eval()
            drop_training_only(forms)
            fold_norms(forms)
            self.model: nn.Module = forms
        else:
            self.model = copy_of(model).eval()
        self.model.requires_grad_(False)

    @torch.no_grad()
    def outputs(self, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        """What it gives for ``inputs``, computed in their dtype."""
        first = inputs[0]
        low = first.dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(first.device.type, first.dtype if low else None, enabled=low):
            return tensors(self.model.to(first.device)(*inputs))


def tensors(outputs: Any) -> list[Tensor]:
    """All tensors in what a model returned."""
    return [each for _, each in leaves(outputs) if isinstance(each, Tensor)]


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T), softmax(student / T)) of logits [N, classes, ...], averaged over
    all but the classes. Raises ``InputError`` for outputs that are no such logits."""
    if student.dim() < 2 or student.shape[1] < 2:
        raise InputError(
            f"an output {list(student.shape)} has no classes in dimension 1, which a teacher's are "
            "compared by: take a strategy without distill"
        )
    wanted = functional.log_softmax(teacher.float() / temperature, 1)
    found = functional.log_softmax(student.float() / temperature, 1)
    return temperature**2 * (wanted.exp() * (wanted - found)).sum(1).mean()
