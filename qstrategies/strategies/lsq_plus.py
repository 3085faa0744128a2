"""https://arxiv.org/abs/2004.09576: LSQ+ (Bhalgat et al., 2020): lsq with a learned offset.

Activations x_ = clip(round((x - beta) / s), 0, p), x^ = s x_ + beta: ds as in lsq, dbeta 1 outside
of the range and 0 inside (section 3). Weights are symmetric, their
first step is max(|mu - 3 sigma|, |mu + 3 sigma|) / 2^(b - 1) (section 3.2).

beta is rounded to an integer zero point (even, for exact scales) that keeps zero in the range; the
gradient passes. Activations begin at the ends of the first batch, the paper's at the least squared
error, which at 8 bits is nearly that. Learned as in lsq, offsets in units of the first range.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qstrategies.quantization.activation_quantizers import ActivationQuantizer
from qstrategies.quantization.learned import LearnedStep, learned_parameters
from qstrategies.quantization.offset import LearnedOffset, offsets
from qstrategies.quantization.quantizers import QuantizerSite, WeightQuantizer
from qstrategies.quantization.scales import SMALLEST_SCALE
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import ParameterGroup
from qstrategies.strategies.lsq import Lsq


class SpreadStep(LearnedStep):
    """A learned step that begins at three standard deviations."""

    def reference(self, groups: Tensor) -> Tensor:
        mean, spread = groups.mean(1), 3 * groups.std(1, correction=0)
        widest = torch.maximum((mean - spread).abs(), (mean + spread).abs())
        first = widest / 2 ** (self.bits - 1) / self.level_set.spacing
        return first.clamp(min=SMALLEST_SCALE)


@STRATEGIES.register("lsq_plus")
class LsqPlus(Lsq):
    """LSQ whose ranges of activations also move."""

    summary = "LSQ with learned offsets of activations, and steps that begin at 3 sigma"
    group = "learned steps"
    paper = "https://arxiv.org/abs/2004.09576"
    options = dict(Lsq.options)

    def weight_quantizer(self, site: QuantizerSite, default: WeightQuantizer) -> WeightQuantizer:
        assert site.weight is not None
        return SpreadStep(default, len(site.weight))

    def activation_quantizer(
        self, site: QuantizerSite, default: ActivationQuantizer
    ) -> ActivationQuantizer:
        return LearnedOffset(default)

    def parameter_groups(self, model: nn.Module, rate: float) -> list[ParameterGroup]:
        settings = {"lr": rate * self.values["step_rate"], "weight_decay": 0.0}
        return [ParameterGroup(learned_parameters(model) + offsets(model), settings)]
