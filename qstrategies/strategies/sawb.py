"""SAWB: statistics-aware weight binning (Choi et al., https://arxiv.org/abs/1807.06964)."""

from __future__ import annotations

from torch import Tensor

from qstrategies.quantization.clipping import ClippingQuantizer
from qstrategies.quantization.quantizers import QuantizerSite, WeightQuantizer
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Course, Strategy

COEFFICIENTS = {
    1: (2.6, -1.71),
    3: (6.946, -6.308),
    7: (12.035, -12.03),
    15: (16.93, -17.82),
    31: (22.15, -23.97),
    63: (28.24, -30.81),
    127: (31.76, -35.04),
}
"""c1 and c2 by the largest integer: a coefficient belongs to a grid. Those of 2, 4, 7 and 8 bits
(largest integers 1, 7, 63, 127) are published for grids like ours; the others are fitted as those
were."""


@STRATEGIES.register("sawb")
class SAWB(Strategy):
    """Clipping at ``c1 sqrt(E[w^2]) + c2 E[|w|]`` (equation 3): a line through the thresholds of
    least squared error of six distributions (normal, uniform, Laplace, logistic, triangular, von
    Mises)."""

    summary = "weights clipped at a threshold by their first two moments (SAWB)"
    paper = "https://arxiv.org/abs/1807.06964"
    course = Course(parent="no_norm", schedule=None)

    def weight_quantizer(self, site: QuantizerSite, default: WeightQuantizer) -> WeightQuantizer:
        return ClippingQuantizer(default, threshold)


def threshold(rows: Tensor, quant_max: int) -> Tensor:
    """The clipping threshold [rows] for integers up to ``quant_max``; the largest weight where the
    line gives nothing above zero (weights of one size)."""
    first, second = COEFFICIENTS[quant_max]
    sizes = rows.abs()
    found = first * sizes.square().mean(1).sqrt() + second * sizes.mean(1)
    return found.where(found > 0, sizes.amax(1))
