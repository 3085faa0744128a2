"""https://openaccess.thecvf.com/content/ICCV2021/html/Han_Improving_Low-Precision_Network_Quantization_via_Bin_Regularization_ICCV_2021_paper.html:
improving low-precision network quantization via bin regularization (Han et al., ICCV 2021).

Adds strength * sum over layers and bins of (mean of the bin's weights - its centre)^2 + the
variance of its weights (equation 5, as the implementation of github.com/7abushahla/BR reads it), so
that each bin becomes a peak. Distances are in steps, which are LSQ's and get no gradient here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qstrategies.quantization.fake_quantized import FakeQuantizedLayer
from qstrategies.quantization.qat import FakeQuantizedModel
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Option, Step, summed
from qstrategies.strategies.lsq import Lsq


@STRATEGIES.register("bin_regularization")
class BinRegularization(Lsq):
    """LSQ whose bins are pulled together around their centres."""

    summary = "LSQ with every bin of weights drawn together at its centre"
    paper = "https://openaccess.thecvf.com/content/ICCV2021/html/Han_Improving_Low-Precision_Network_Quantization_via_Bin_Regularization_ICCV_2021_paper.html"
    options = {
        **Lsq.options,
        "strength": Option(0.01, 0, 1000, "factor of the squares in the loss"),
    }

    def loss(self, model: nn.Module, step: Step) -> Tensor | None:
        assert isinstance(model, FakeQuantizedModel)
        strength = self.values["strength"]
        return strength * summed([spread(layer) for layer in model.layers])


def spread(layer: FakeQuantizedLayer) -> Tensor:
    """Of the weights in the bins of ``layer``, in squared steps, added over bins."""
    steps, levels = layer.steps[0], layer.quantizer.level_set
    low, bins = levels.quant_min, levels.count
    inside = layer.quantizer.nearest(steps.detach()).flatten()
    inside = ((inside - low) / levels.spacing).long()
    counts = torch.bincount(inside, minlength=bins)
    used = counts.clamp(min=1)
    means = steps.new_zeros(bins).index_add(0, inside, steps.flatten()) / used
    squares = steps.new_zeros(bins).index_add(0, inside, (steps.flatten() - means[inside]).square())
    centres = torch.arange(bins, device=steps.device) * levels.spacing + low
    apart = (means - centres).square() * (counts > 0)
    return (apart + squares / used).sum()
