"""https://arxiv.org/abs/2102.05426: weights rounded up or down by what blocks give (Li et al.,
BRECQ, 2021).

AdaRound's ``min |f(W~ x^) - f(W x)|^2 + strength sum(1 - |2 h(V) - 1|^beta)`` with the whole of a
block for f, so that layers of one residual branch make good for each other. The squared error
counts all outputs alike, as their code does unless it is told otherwise; the paper weighs them
by squared gradients of the loss, which ask for labels. ``strength`` as in adaround.py. Published:
20 000 steps of 32 images at rate 0.001, first and last layer at 8 bits; here fewer and longer ones,
and all layers alike.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from qstrategies.quantization.blocks import BlockProblem
from qstrategies.quantization.reconstruction import reconstruct
from qstrategies.quantization.soft_rounding import Settings
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Course, Option, Strategy

OPTIONS = {
    "block_steps": Option(500, 1, 1e5, "steps of Adam per block"),
    "block_rate": Option(0.03, 1e-6, 1, "learning rate"),
    "block_strength": Option(0.01, 0, 1e3, "of the regularizer"),
    "block_warm_up": Option(0.2, 0, 0.99, "part of the steps without it"),
    "block_places": Option(512, 1, 1e6, "of the output per step, in whole examples"),
}


@STRATEGIES.register("brecq")
class Brecq(Strategy):
    """A block reaches from a fork to its addition, from a depthwise layer to the next one, or is a
    single layer (``quantization/blocks.py``)."""

    summary = "weights rounded up or down by what whole blocks give (BRECQ), without training"
    paper = "https://arxiv.org/abs/2102.05426"
    course = Course(parent="no_norm", schedule=None)
    options = OPTIONS

    def round_block(self, problem: BlockProblem) -> Mapping[str, Tensor]:
        return reconstruct(problem, self.settings)

    @property
    def settings(self) -> Settings:
        """How to train, by the options."""
        return Settings(
            steps=int(self.values["block_steps"]),
            rate=self.values["block_rate"],
            strength=self.values["block_strength"],
            warm_up=self.values["block_warm_up"],
            places=int(self.values["block_places"]),
        )
