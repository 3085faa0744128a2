"""https://arxiv.org/abs/2011.10680: bits per layer by an integer program (Yao et al., HAWQ-V3).

``min sum_i Omega_i(b_i)`` with ``sum_i n_i b_i <= budget * sum_i n_i`` over one width b_i for each
layer of n_i weights (section 3.3). There Omega is the mean trace of the Hessian times the squared
error of the weights; here it is measured, as the squared error of the outputs on calibration
batches where only that layer is rounded (so Sony's Model Compression Toolkit), which holds for the
large errors of 2 bits too, and asks for no labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from qstrategies.errors import InputError
from qstrategies.quantization.bits import disturbances, least_disturbing, sizes
from qstrategies.quantization.prepare import Prepared
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Course, Option, Strategy


@STRATEGIES.register("mixed")
class Mixed(Strategy):
    """Every layer gets the bits that it needs, within the size that the same bits for all would
    take; the strategies that it is composed with then round or train with them."""

    summary = "bits per layer by measured sensitivity, within a budget"
    paper = "https://arxiv.org/abs/2011.10680"
    course = Course(parent="no_norm", schedule=None)
    options = {
        "budget": Option(0, 0, 8, "average bits of a weight; 0: the weight bits that are set"),
        "lowest": Option(2, 2, 8, "fewest bits of a layer"),
        "highest": Option(8, 2, 8, "most bits of a layer"),
        "examples": Option(128, 1, 1e5, "of the calibration batches that are measured on"),
    }

    def weight_bits(
        self, prepared: Prepared, batches: Sequence[tuple[Tensor, ...]]
    ) -> Mapping[str, int]:
        lowest, highest = int(self.values["lowest"]), int(self.values["highest"])
        if lowest > highest:
            raise InputError(f"lowest is {lowest}: expected at most highest, which is {highest}")
        widths, counts = range(lowest, highest + 1), sizes(prepared)
        some = _first(batches, int(self.values["examples"]))
        disturbed = disturbances(prepared, some, widths)
        budget = self.values["budget"] or prepared.config.weight_bits
        chosen = least_disturbing(disturbed, list(counts.values()), widths, budget)
        return dict(zip(counts, chosen, strict=True))


def _first(batches: Sequence[tuple[Tensor, ...]], examples: int) -> Sequence[tuple[Tensor, ...]]:
    each = -(-examples // len(batches))
    return [tuple(tensor[:each] for tensor in batch) for batch in batches[:examples]]
