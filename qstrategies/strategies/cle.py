"""Cross-layer equalization (Nagel et al., https://arxiv.org/abs/1906.04721)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, fx

from qstrategies.quantization.calibrate import recalibrate
from qstrategies.quantization.equalize import absorb, equalize, links, smallest_results
from qstrategies.quantization.prepare import Prepared
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Course, Option, Strategy


@STRATEGIES.register("cle")
class CrossLayerEqualization(Strategy):
    """``W1 / s, b1 / s, W2 s`` with ``s = sqrt(r1 / r2)`` per channel between two layers
    (equations 9 to 11), r1 and r2 the largest absolute weights that give and read the channel;
    swept over all pairs until nothing moves, so that chains, as around a depthwise layer, become
    even.

    A channel without weights on one side stays as it is; so do layers around a ReLU6. Then
    ``b1 - c`` and ``b2 + W2 c`` with the c > 0 that a channel exceeds in all calibration batches
    (the paper: max(0, beta - 3 gamma) of its batch normalization), unless padding is in the way.

    Before QAT ("cle+lsq") factors are moved, the function of training being the same; biases stay.
    """

    summary = "factors moved between layers until the weights of all channels have one range"
    paper = "https://arxiv.org/abs/1906.04721"
    course = Course(parent="no_norm", schedule=None)
    options = {"sweeps": Option(20, 1, 1000, "over all pairs of layers, at most")}

    def rewrite(self, graph: fx.GraphModule) -> None:
        equalize(links(graph), int(self.values["sweeps"]))

    def refine(self, prepared: Prepared, batches: Sequence[tuple[Tensor, ...]]) -> None:
        if prepared.trained:
            return
        found = links(prepared.graph)
        smallest = smallest_results(prepared.graph, {link.name for link in found}, batches)
        if batches and absorb(found, smallest):
            recalibrate(prepared, batches)
