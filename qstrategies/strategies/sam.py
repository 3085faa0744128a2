"""https://arxiv.org/abs/2010.01412: sharpness-aware minimization (Foret et al., 2021), of quantized
weights as in SAQ (Liu et al., https://arxiv.org/abs/2111.12273).

The loss is L(Q(w) + e), e = rho g / ||g|| with g = dL / dQ(w) of all layers together (section
2 there, with the 2-norm); e is added behind the rounding, in which it would vanish (read in SAQ's
code, which also moves batch normalization; its rho is 0.5, SAM's 0.05). Q(w) are weights as they
are exported, batch normalization folded in; e gets no gradient.

It takes two passes over the model, of which the second leaves statistics and ranges as they are,
and the task's loss: ``trainee.penalty(outputs, criterion=...)`` in a loop of one's own.
"""

from __future__ import annotations

from torch import Tensor, nn

from qstrategies.errors import InputError
from qstrategies.quantization.perturbed import PerturbedStep, outputs_again, perturb
from qstrategies.quantization.qat import FakeQuantizedModel
from qstrategies.quantization.quantizers import QuantizerSite, WeightQuantizer
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import QAT, Option, Step, Strategy


@STRATEGIES.register("sam")
class Sam(Strategy):
    """Weights around which the loss is flat."""

    summary = "QAT on the largest loss near the rounded weights"
    paper = "https://arxiv.org/abs/2010.01412"
    course = QAT
    observer = "moving_average"
    options = {"rho": Option(0.05, 0, 100, "length of the step to the largest loss")}

    def weight_quantizer(self, site: QuantizerSite, default: WeightQuantizer) -> WeightQuantizer:
        return PerturbedStep(default)

    def loss(self, model: nn.Module, step: Step) -> Tensor | None:
        """By how much the loss is larger at the perturbed weights.

        Raises:
            InputError: the loop gives no criterion.
        """
        assert isinstance(model, FakeQuantizedModel)
        if not self.values["rho"]:
            return None
        if step.criterion is None:
            raise InputError("sam looks at the task's loss: call penalty(outputs, criterion=...)")
        here = step.criterion(step.outputs)
        perturb(model, here, self.values["rho"])
        return step.criterion(outputs_again(model, step.inputs)) - here
