"""Steps of weights by least squared error (as in Nagel et al., https://arxiv.org/abs/2106.08295,
section 3.1)."""

from __future__ import annotations

from qstrategies.quantization.clipping import LeastSquaresQuantizer
from qstrategies.quantization.quantizers import QuantizerSite, WeightQuantizer
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Course, Option, Strategy


@STRATEGIES.register("mse_clip")
class MSEClip(Strategy):
    """``argmin over s of |W - s clip(round(W / s), -q, q)|^2`` (equation 16) per channel or tensor,
    over the steps that can be exported."""

    summary = "steps of weights by least squared error instead of the largest weight"
    paper = "https://arxiv.org/abs/2106.08295"
    course = Course(parent="no_norm", schedule=None)
    options = {"candidates": Option(100, 2, 10_000, "steps that are tried")}

    def weight_quantizer(self, site: QuantizerSite, default: WeightQuantizer) -> WeightQuantizer:
        return LeastSquaresQuantizer(default, int(self.values["candidates"]))
