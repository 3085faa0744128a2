"""Observed ranges of a group of tensors -> its quantizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx, nn

from qstrategies.operators.base import Quantizer
from qstrategies.quantization.exact_forms import module_at
from qstrategies.quantization.scales import exact_activation_qparams


def decided(
    observer: Any,
    graph: fx.GraphModule,
    members: Sequence[str],
    *,
    exact: bool,
    reduced: bool = False,
) -> Quantizer:
    """The quantizer of the tensors ``members`` that ``observer`` has seen, on the exact grid if
    ``exact``; ``reduced``: whether it looks for a range of fewer bits than are used."""
    scale, zero_point = (each.detach() for each in observer.calculate_qparams())
    low, high = observer.quant_min, observer.quant_max
    interval = clamped(graph, members) if exact else None
    if interval is not None:
        ends = [(bound - zero_point) * scale for bound in (low, high)]
        below, above = (end.clamp(*interval) for end in ends)
        scale, zero_point = exact_activation_qparams(below, above, low, high)
    # A reduced range only chooses the scale: kernels saturate at 255.
    highest = Quantizer.quant_max if reduced else high
    return Quantizer(float(scale), int(zero_point), quant_max=highest)


def clamped(graph: fx.GraphModule, members: Sequence[str]) -> tuple[float, float] | None:
    """The interval that ReLU6 or hardtanh cuts all values of ``members`` to, which then need no
    wider range.

    None unless each of ``members`` is read by such a clamp only, or made from others of them.
    """
    clamps: list[Any] = []
    for node in (each for each in graph.graph.nodes if each.name in members):
        sources = node.all_input_nodes
        if sources and all(source.name in members for source in sources):
            continue
        readers = [module_at(graph, user) for user in node.users]
        if not readers or not all(isinstance(reader, nn.Hardtanh) for reader in readers):
            return None
        clamps += readers
    if not clamps:
        return None
    return min(clamp.min_val for clamp in clamps), max(clamp.max_val for clamp in clamps)
