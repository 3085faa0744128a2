"""https://arxiv.org/abs/1503.02531: distilling the knowledge in a network (Hinton et al., 2015).

Adds weight * T^2 * KL(softmax(teacher / T) || softmax(student / T)) to the loss (section 2); the
teacher is the float model that training starts from, as in scheme C of Apprentice
(https://arxiv.org/abs/1711.05852), whose temperature 1 and equal weights of labels and teacher are
the defaults. Its control is finetune_distill: a float student of the same teacher.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qstrategies.quantization.teacher import Teacher, divergence, tensors
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import QAT, Option, Step, Strategy


@STRATEGIES.register("distill")
class Distill(Strategy):
    """The fake-quantized model learns from labels and from what the float model gives."""

    summary = "QAT that also learns from the float model's outputs"
    paper = "https://arxiv.org/abs/1503.02531"
    course = QAT
    observer = "moving_average"
    compares_classes = True
    options = {
        "temperature": Option(1.0, 0.1, 100, "what logits are divided by"),
        "weight": Option(1.0, 0, 1000, "of the teacher, where the labels have 1"),
    }

    def parametrize(self, model: nn.Module) -> None:
        self.teacher = Teacher(model)

    def loss(self, model: nn.Module, step: Step) -> Tensor | None:
        pairs = zip(tensors(step.outputs), self.teacher.outputs(step.inputs), strict=True)
        parts = [divergence(ours, theirs, self.values["temperature"]) for ours, theirs in pairs]
        return self.values["weight"] * torch.stack(parts).sum()
