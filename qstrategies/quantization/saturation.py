"""ReLU6 as the saturation of an int8 kernel, so that it costs no operator and wastes no step.

Let a layer give ``x``, and let only layers, which are linear, read ``ReLU6(x)``. With ``c = 255 *
2^-5 / 6`` it is ``ReLU6(x) = min(max(c x, 0), 255 * 2^-5) / c``: with the weights of the first
layer times ``c`` and those of its readers divided by ``c``, ReLU6 is what a uint8 tensor of scale
2^-5 and zero point 0 does anyway, and one of b bits with ``2^b - 1`` for 255 and 2^(3-b) for 2^-5.
Where calibration shows no values as large, the scale is a
smaller power of two. (Factors move through a positively homogeneous function as in cross-layer
equalization: Nagel et al., arXiv:1906.04721, section 4.1.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from qstrategies.operators.base import form_of
from qstrategies.quantization.exact_forms import NORM_KINDS, folds, is_layer, module_at


def saturation_top(bits: int) -> float:
    """Where a tensor of ``bits`` that stands for a ReLU6 is cut."""
    return float((2**bits - 1) * 2.0 ** (3 - bits))


class SaturatingObserver(nn.Module):
    """``observer`` of what is left of values that are cut at ``saturation_top``. The largest
    integer of its scale stands for that at most, its zero point is 0."""

    def __init__(self, observer: Any) -> None:
        super().__init__()
        self.observer = observer
        self.quant_min, self.quant_max = observer.quant_min, observer.quant_max
        self.top = saturation_top(self.quant_max.bit_length())

    def forward(self, x: Tensor) -> Tensor:
        # in place where it may be: it is what a ReLU has just given, or has been cut already
        result: Tensor = self.observer(x.contiguous().clamp_(0, self.top))
        return result

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point of what was observed."""
        qparams: tuple[Tensor, Tensor] = self.observer.calculate_qparams()
        return qparams


def saturated(node: fx.Node, value: Tensor) -> Tensor:
    """What is read of the ``value`` that ``node`` gives in the float network."""
    return value.clamp(0, node.meta["saturates"]) if "saturates" in node.meta else value


class FloatNetwork(fx.Interpreter):
    """Runs a graph of forms as the user's model computes: what its quantizers will saturate is
    cut."""

    def run_node(self, n: fx.Node) -> Any:
        return saturated(n, super().run_node(n))


@torch.no_grad()
def relu6_to_saturation(graph: fx.GraphModule, top: float) -> set[str]:
    """Rewrite every ReLU6 that stands as above, in place; the names of the nodes whose results now
    must saturate at ``top``."""
    for node in graph.graph.nodes:
        clamp = module_at(graph, node)
        if not isinstance(clamp, nn.Hardtanh) or (clamp.min_val, clamp.max_val) != (0, 6):
            continue
        scaled, readers = _scaled_by(graph, node.args[0]), _linear_readers(graph, node)
        if scaled is None or readers is None:
            continue
        for parameter in scaled.parameters():
            parameter.mul_(top / 6)
        for reader in readers:
            reader.weight.div_(top / 6)
        graph.set_submodule(str(node.target), nn.ReLU())
        node.meta["saturates"] = top
    return saturating_nodes(graph)


def saturating_nodes(graph: fx.GraphModule) -> set[str]:
    """The names of the nodes that ``relu6_to_saturation`` has found."""
    return {node.name for node in graph.graph.nodes if "saturates" in node.meta}


def units(graph: fx.GraphModule) -> dict[str, float]:
    """How many times as large as in the user's model the result of every node is, by its name: what
    ``relu6_to_saturation`` has multiplied, up to the layers that it has divided."""
    found: dict[str, float] = {}
    for node in graph.graph.nodes:
        module = module_at(graph, node)
        if "saturates" in node.meta:
            found[node.name] = node.meta["saturates"] / 6
        elif module is None or is_layer(graph, node):
            found[node.name] = 1.0
        else:
            found[node.name] = max(found[source.name] for source in node.all_input_nodes)
    return found


def _scaled_by(graph: fx.GraphModule, node: Any) -> Any | None:
    """The module whose parameters scale what ``node`` gives: a layer, or the batch normalization to
    be folded into one."""
    if len(node.users) > 1:
        return None
    module = module_at(graph, node)
    folded = isinstance(module, NORM_KINDS) and folds(graph, node)
    return module if is_layer(graph, node) or folded else None


def _linear_readers(graph: fx.GraphModule, node: fx.Node) -> list[Any] | None:
    """All layers that read ``node``, itself or pooled or moved; None if anything else reads it."""
    found: list[Any] = []
    for user in node.users:
        module = module_at(graph, user)
        form = form_of(module)
        if is_layer(graph, user):
            found.append(module)
            continue
        passes = form is not None and form.homogeneous and len(user.all_input_nodes) == 1
        readers = _linear_readers(graph, user) if passes else None
        if readers is None:
            return None
        found += readers
    return found or None
