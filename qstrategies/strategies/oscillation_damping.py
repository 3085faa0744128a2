"""https://arxiv.org/abs/2203.11086: oscillations in QAT (Nagel et al., 2022), damping (4.2).

Adds damping * sum over layers of ||q(w) - clip(w, -q s, q s)||^2 (equation 6), the target q(w)
without gradient, so that weights settle at the middle of their bins; within a layer the squares are
added over output channels and averaged over the kernel, as the authors' code does. The factor rises
as a cosine from 0 after a quarter of the training. Steps are LSQ's; ``norm_batches`` belongs to it.
"""

from __future__ import annotations

from torch import Tensor, nn

from qstrategies.quantization.fake_quantized import FakeQuantizedLayer
from qstrategies.quantization.learned import annealed
from qstrategies.quantization.qat import FakeQuantizedModel
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Option, Step, summed
from qstrategies.strategies.lsq import Lsq


@STRATEGIES.register("oscillation_damping")
class OscillationDamping(Lsq):
    """LSQ with a pull of every weight to the middle of its bin."""

    summary = "LSQ with weights damped towards the middle of their bins"
    paper = "https://arxiv.org/abs/2203.11086"
    options = {
        **Lsq.options,
        "damping": Option(0.1, 0, 1e4, "factor of the squared distances at the end"),
        "start": Option(0.25, 0, 1, "part of the training before damping begins"),
    }

    def loss(self, model: nn.Module, step: Step) -> Tensor | None:
        assert isinstance(model, FakeQuantizedModel)
        factor = self.values["damping"] * annealed(step.progress, self.values["start"])
        if not factor:
            return None
        return factor * summed([distance(layer) for layer in model.layers])


def distance(layer: FakeQuantizedLayer) -> Tensor:
    """Squared, between the weights inside of the range and their middles."""
    steps, unit = layer.steps
    inside = steps.clamp(layer.quantizer.quant_min, layer.quantizer.quant_max)
    return ((layer.quantizer.nearest(inside.detach()) - inside) * unit).square().sum(0).mean()
