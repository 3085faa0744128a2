"""Ranges of activations by percentiles (Wu et al., https://arxiv.org/abs/2004.09602, section
5.1)."""

from __future__ import annotations

from qstrategies.quantization.activation_quantizers import ActivationQuantizer
from qstrategies.quantization.clipping import PercentileQuantizer
from qstrategies.quantization.quantizers import QuantizerSite
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Course, Option, Strategy


@STRATEGIES.register("percentile")
class Percentile(Strategy):
    """The range from the (100 - p)-th to the p-th percentile of a batch; what lies beyond
    saturates. Of several batches the widest range. The paper's p are 99.9 to 99.9999."""

    summary = "ranges of activations that leave the rarest values out"
    paper = "https://arxiv.org/abs/2004.09602"
    course = Course(parent="no_norm", schedule=None)
    options = {"percent": Option(99.99, 50.1, 100, "of the values from either end that fit")}

    def activation_quantizer(
        self, site: QuantizerSite, default: ActivationQuantizer
    ) -> ActivationQuantizer:
        return PercentileQuantizer(default.observer, self.values["percent"])
