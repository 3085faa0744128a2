"""Observers of a calibrated graph -> quantizers that are decided."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from qstrategies.quantization.graph import called, is_quantizer
from qstrategies.quantization.observers import FixedQuantizer
from qstrategies.quantization.scales import exact_activation_qparams
from qstrategies.records import QuantizationConfig


def freeze_ranges(prepared: fx.GraphModule, config: QuantizationConfig) -> None:
    """Replace every observer or fake quantizer by a ``FixedQuantizer`` of its range. In place."""
    quantizers = [node for node in prepared.graph.nodes if is_quantizer(prepared, node)]
    groups: dict[int, list[fx.Node]] = {}
    for node in quantizers:  # nodes that move values share one observer
        groups.setdefault(id(called(prepared, node)), []).append(node)
    for nodes in groups.values():
        observer = called(prepared, nodes[0])
        if isinstance(observer, FixedQuantizer):
            continue
        scale, zero_point = observer.calculate_qparams()
        interval = _clamp(prepared, nodes) if config.exact else None
        if interval is not None:
            low, high = ((bound - zero_point) * scale for bound in (observer.quant_min, observer.quant_max))
            scale, zero_point = exact_activation_qparams(
                low.clamp(*interval), high.clamp(*interval), observer.quant_min, observer.quant_max
            )
        for node in nodes:
            fixed = FixedQuantizer(float(scale), int(zero_point), observer.quant_min, observer.quant_max)
            prepared.set_submodule(str(node.target), fixed)


def _clamp(prepared: fx.GraphModule, nodes: list[fx.Node]) -> tuple[float, float] | None:
    """The interval that ReLU6 or hardtanh cuts all values of one observer to, which then need no wider range.

    None unless every quantizer in ``nodes`` is read by such a clamp only or made from others of ``nodes``.
    """
    clamps: list[Any] = []
    for node in nodes:
        made_from = node.all_input_nodes[0].all_input_nodes
        if made_from and all(source in nodes for source in made_from):
            continue
        users = [called(prepared, user) if user.op == "call_module" else None for user in node.users]
        if not users or not all(isinstance(user, nn.Hardtanh) for user in users):
            return None
        clamps += users
    if not clamps:
        return None
    return min(clamp.min_val for clamp in clamps), max(clamp.max_val for clamp in clamps)
