"""ReLU6 as the saturation of an int8 kernel, so that it costs no operator and wastes no step.

Let a layer give ``x``, and let only layers, which are linear, read ``ReLU6(x)``. With ``c = 255 * 2^-5 / 6`` it is
``ReLU6(x) = min(max(c x, 0), 255 * 2^-5) / c``: with the weights of the first layer times ``c`` and those of its readers
divided by ``c``, ReLU6 is what a uint8 tensor of scale 2^-5 and zero point 0 does anyway. Where calibration shows no values as
large, the scale is a smaller power of two. (Factors move through a positively homogeneous function as in cross-layer
equalization: Nagel et al., arXiv:1906.04721, section 4.1.)
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.ao.quantization.observer import ObserverBase
from torch.nn import functional

from qstrategies.quantization.exact_forms import NORMS, WEIGHTED
from qstrategies.quantization.graph import called, is_quantizer, moves_values

TOP = 255 * 2.0**-5
_HOMOGENEOUS_MODULES = (
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.Dropout,
    nn.Dropout2d,
    nn.MaxPool1d,
    nn.MaxPool2d,
)
_HOMOGENEOUS_FUNCTIONS = (
    functional.adaptive_avg_pool1d,
    functional.adaptive_avg_pool2d,
    functional.avg_pool1d,
    functional.avg_pool2d,
    functional.dropout,
    functional.max_pool1d,
    functional.max_pool2d,
    torch.mean,
)


class SaturatingObserver(ObserverBase):
    """``observer`` of what is left of values that are cut at 255 * 2^-5. Its scale is at most 2^-5, its zero point 0."""

    qscheme = torch.per_tensor_affine

    def __init__(self, observer: Any) -> None:
        super().__init__(dtype=torch.quint8)
        self.observer = observer
        self.quant_min, self.quant_max = observer.quant_min, observer.quant_max

    def forward(self, x: Tensor) -> Tensor:
        return self.observer(x.clamp(0, TOP))

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        return self.observer.calculate_qparams()


@torch.no_grad()
def relu6_to_saturation(traced: fx.GraphModule, left: Collection[str]) -> list[str]:
    """Rewrite every ReLU6 of ``traced`` that stands as above, in place; the names of the layers that now must saturate."""
    saturating = []
    for node in traced.graph.nodes:
        if node.op != "call_module" or not isinstance(clamp := called(traced, node), nn.Hardtanh):
            continue
        layer, readers = _scaled_by(traced, node.args[0]), _linear_readers(traced, node)
        if (clamp.min_val, clamp.max_val) != (0, 6) or layer is None or readers is None:
            continue
        if any(str(name) in left for name in (layer, node.args[0].target, node.target, *readers)):
            continue
        for parameter in called(traced, node.args[0]).parameters(recurse=False):
            parameter.mul_(TOP / 6)
        for reader in readers:
            traced.get_submodule(reader).weight.div_(TOP / 6)  # type: ignore[operator]
        traced.set_submodule(str(node.target), nn.ReLU().train(clamp.training))
        saturating.append(layer)
    return saturating


def saturate(prepared: fx.GraphModule, layers: Collection[str]) -> None:
    """Give the outputs of ``layers``, and all that shares their observers, a ``SaturatingObserver``. In place."""
    quantizers = [node for node in prepared.graph.nodes if is_quantizer(prepared, node)]
    observers = [called(prepared, node) for node in quantizers if node.all_input_nodes[0].target in layers]
    shared = {id(observer): SaturatingObserver(observer) for observer in observers}
    for node in quantizers:
        observer = called(prepared, node)
        prepared.set_submodule(str(node.target), shared.get(id(observer), observer))


def _scaled_by(traced: fx.GraphModule, node: Any) -> str | None:
    """The name of the layer that gives ``node``, itself or before its affine batch normalization; None if there is none."""
    if node.op != "call_module" or len(node.users) > 1:
        return None
    module, before = called(traced, node), node.args[0]
    if isinstance(module, WEIGHTED):
        return str(node.target)
    layer = called(traced, before) if before.op == "call_module" else None
    folded = isinstance(module, tuple(NORMS)) and getattr(module, "affine", False) and isinstance(layer, WEIGHTED)
    return str(before.target) if folded and len(before.users) == 1 else None


def _linear_readers(traced: fx.GraphModule, node: fx.Node) -> list[str] | None:
    """The names of all layers that read ``node``, itself or pooled, moved or dropped; None if anything else reads it."""
    found: list[str] = []
    for user in node.users:
        module = called(traced, user) if user.op == "call_module" else None
        if isinstance(module, WEIGHTED):
            found.append(str(user.target))
            continue
        passes = isinstance(module, _HOMOGENEOUS_MODULES) or user.target in _HOMOGENEOUS_FUNCTIONS or user.target == "mean"
        readers = _linear_readers(traced, user) if passes or moves_values(traced, user) else None
        if readers is None:
            return None
        found += readers
    return found or None
