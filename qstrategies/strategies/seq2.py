"""https://arxiv.org/abs/2502.02631: stretched elastic quantization (ParetoQ, Liu et al., 2025).

Of k levels each is the middle of one of k equal bins of [-alpha, alpha]: with 2 bits and ``levels``
"no_zero" +-1/4 and +-3/4 of alpha, with "narrow" -2/3, 0 and 2/3 (the authors' code, for 2 bits and
ternary weights; its lsq is for more). w gets the gradient where |w| < 0.99 alpha, not only up to
the outermost level; alpha gets q - w / alpha there and q outside, with the gradient scale of lsq.

alpha begins at the largest weight of a channel (their train.py) and is learned as the steps of lsq.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qstrategies.quantization.learned import LearnedStep
from qstrategies.quantization.quantizers import QuantizerSite, WeightQuantizer
from qstrategies.quantization.scales import SMALLEST_SCALE, straight_through
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.lsq import Lsq

INSIDE = 0.99


class StretchedStep(LearnedStep):
    """A learned step; the outermost bins are as wide as the others."""

    @property
    def edge(self) -> float:
        """alpha in steps."""
        return self.level_set.count * self.level_set.spacing / 2

    def reference(self, groups: Tensor) -> Tensor:
        return (groups.abs().amax(1) / self.edge).clamp(min=SMALLEST_SCALE)

    def rounded(self, weight: Tensor, scale: Tensor) -> Tensor:
        steps = weight / scale
        levels = self.nearest(steps.detach())
        inside = steps.detach().abs() < INSIDE * self.edge
        return straight_through(levels, torch.where(inside, steps, levels)) * scale


@STRATEGIES.register("seq2")
class Seq2(Lsq):
    """LSQ with bins of one width; its own levels are the four of 2 bits without zero."""

    summary = "LSQ with outermost bins as wide as the others; its own levels are no_zero of 2 bits"
    paper = "https://arxiv.org/abs/2502.02631"
    options = dict(Lsq.options)
    refused_levels = {"full": "its bins lie symmetric about zero"}

    def weight_quantizer(self, site: QuantizerSite, default: WeightQuantizer) -> WeightQuantizer:
        assert site.weight is not None
        return StretchedStep(default, len(site.weight))
