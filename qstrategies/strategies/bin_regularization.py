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
    """Of the weights in the bins of ``layer``, in squared steps, added over bins.

    Squared distance of the mean and variance together are the mean squared distance: so a weight at
    its centre, as a zero in a dead channel, has no gradient at all, not one that is rounded.
    """
    steps, levels = layer.steps[0].flatten(), layer.quantizer.level_set
    centres = layer.quantizer.nearest(steps.detach())
    inside = ((centres - levels.quant_min) / levels.spacing).long()
    counts = torch.bincount(inside, minlength=levels.count)
    return ((steps - centres).square() / counts[inside]).sum()
