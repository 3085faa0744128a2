"""OCTAV: thresholds of least expected squared error by Newton's method (Sakr et al.,
https://arxiv.org/abs/2206.06501)."""

from __future__ import annotations

import torch
from torch import Tensor

from qstrategies.quantization.clipping import ClippingQuantizer
from qstrategies.quantization.quantizers import QuantizerSite, WeightQuantizer
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Course, Option, Strategy


@STRATEGIES.register("octav")
class Octav(Strategy):
    """``t <- E[|w| ; |w| > t] / (E[1 ; 0 < |w| <= t] / (12 q^2) + E[1 ; |w| > t])`` (equation 6),
    from the mean of ``|w|`` on: the noise ``(t / q)^2 / 12`` of rounding within the threshold t
    against that of clipping. The paper has 2^(b - 1) in the place of q = 2^(b - 1) - 1, which our
    narrow levels ask for.
    """

    summary = "weights clipped at the threshold of least expected squared error (OCTAV)"
    paper = "https://arxiv.org/abs/2206.06501"
    course = Course(parent="no_norm", schedule=None)
    options = {"iterations": Option(20, 1, 1000, "of Newton's method")}

    def weight_quantizer(self, site: QuantizerSite, default: WeightQuantizer) -> WeightQuantizer:
        return ClippingQuantizer(default, self.threshold)

    def threshold(self, rows: Tensor, side: float) -> Tensor:
        """The clipping threshold [rows] for ``side`` levels on either side of zero."""
        sizes = rows.abs()
        nonzero = (sizes > 0).sum(1).clamp(min=1)
        found = sizes.sum(1) / nonzero
        for _ in range(int(self.values["iterations"])):
            beyond = sizes > found[:, None]
            clipped = beyond.sum(1)
            rounding = (nonzero - clipped) / (12 * side**2)
            better = torch.where(beyond, sizes, 0.0).sum(1) / (rounding + clipped)
            found = torch.where(clipped > 0, better, found)
        return found
