"""https://arxiv.org/abs/2203.05740: block reconstruction with activations rounded at random (Wei
et al., QDrop, 2022).

As brecq.py, but where a block reads, and at every tensor inside that will be rounded, each number
is taken rounded with probability ``share`` (published: 0.5) and in float otherwise, drawn anew at
each step: the weights then suit many disturbances of the activations and not the one of the
calibration images. Here the activations keep their ranges; the paper trains their steps along.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from qstrategies.quantization.blocks import BlockProblem
from qstrategies.quantization.reconstruction import reconstruct
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Option
from qstrategies.strategies.brecq import OPTIONS, Brecq


@STRATEGIES.register("qdrop")
class QDrop(Brecq):
    """BRECQ among activations of which a random part is rounded."""

    summary = "BRECQ with activations rounded at random meanwhile (QDrop), without training"
    paper = "https://arxiv.org/abs/2203.05740"
    options = {**OPTIONS, "share": Option(0.5, 0, 1, "probability that a number is rounded")}

    def round_block(self, problem: BlockProblem) -> Mapping[str, Tensor]:
        return reconstruct(problem, self.settings, self.values["share"])
