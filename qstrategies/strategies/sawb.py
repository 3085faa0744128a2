"""SAWB: statistics-aware weight binning (Choi et al., https://arxiv.org/abs/1807.06964)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qstrategies.errors import InputError
from qstrategies.quantization.clipping import ClippingQuantizer
from qstrategies.quantization.quantizers import QuantizerSite, WeightQuantizer
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Course, Strategy

COEFFICIENTS = {
    1: (2.6, -1.71),
    1.5: (3.12, -2.064),
    3: (6.946, -6.308),
    3.5: (7.509, -6.892),
    7: (12.035, -12.03),
    7.5: (12.68, -12.80),
    15: (16.93, -17.82),
    15.5: (17.74, -18.64),
    31: (22.15, -23.97),
    63: (28.24, -30.81),
    127: (31.76, -35.04),
}
"""c1 and c2 by the levels on either side of zero: a coefficient belongs to a grid. Those of 2, 4, 7
and 8 bits (1, 7, 63, 127) are published for narrow levels, those with a half for levels without
zero; the others are fitted as those were."""
UNIFORM = 2 / math.sqrt(3)  # root mean square over mean size, the least of the six


@STRATEGIES.register("sawb")
class SAWB(Strategy):
    """Clipping at ``c1 sqrt(E[w^2]) + c2 E[|w|]`` (equation 3): a line through the thresholds of
    least squared error of six distributions (normal, uniform, Laplace, logistic, triangular, von
    Mises)."""

    summary = "weights clipped at a threshold by their first two moments (SAWB)"
    paper = "https://arxiv.org/abs/1807.06964"
    course = Course(parent="no_norm", schedule=None)
    refused_levels = {"full": "its coefficients are fitted to symmetric levels"}

    def weight_quantizer(self, site: QuantizerSite, default: WeightQuantizer) -> WeightQuantizer:
        return ClippingQuantizer(default, threshold)


def threshold(rows: Tensor, side: float) -> Tensor:
    """The clipping threshold [rows] for ``side`` levels on either side of zero. The line ends at
    the uniform distribution: weights that are more alike are taken for that."""
    if side not in COEFFICIENTS:
        raise InputError(
            f"no coefficients are known for {2 * side + 1:g} levels without zero: take other bits"
        )
    first, second = COEFFICIENTS[side]
    sizes = rows.abs()
    root, mean = sizes.square().mean(1).sqrt(), sizes.mean(1)
    return first * torch.maximum(root, UNIFORM * mean) + second * mean
