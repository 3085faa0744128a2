"""The range of a group of tensors -> its quantizer, and what may narrow it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx, nn

from qstrategies.errors import InputError
from qstrategies.operators.base import Quantizer, form_of
from qstrategies.operators.concatenation import Concat
from qstrategies.quantization.activation_quantizers import ActivationQuantizer
from qstrategies.quantization.exact_forms import module_at


def decided(known: ActivationQuantizer) -> Quantizer:
    """The quantizer of tensors whose range is ``known``.

    Raises:
        InputError: nothing was seen of them.
        NotFiniteError: values that are NaN or infinite.
    """
    if not known.seen:
        raise InputError(
            f"nothing has been seen of {known.name!r}: train with the model in training mode, or "
            "calibrate, before it is quantized"
        )
    scale, zero_point = (each.detach() for each in known.qparams())
    return Quantizer(float(scale), int(zero_point), quant_max=known.saturates_at)


def clamped(graph: fx.GraphModule, members: Sequence[str]) -> tuple[float, float] | None:
    """The interval that ReLU6 or hardtanh cuts all values of ``members`` to, which then need no
    wider range.

    None unless each of ``members`` is read by such a clamp only, itself or moved (pooled by its
    maximum, upsampled, concatenated ...), or is made from others of them.
    """
    clamps: list[Any] = []
    for node in (each for each in graph.graph.nodes if each.name in members):
        if _is_made_from(node, members):
            continue
        found = _clamps_behind(graph, node)
        if found is None:
            return None
        clamps += found
    if not clamps:
        return None
    return min(clamp.min_val for clamp in clamps), max(clamp.max_val for clamp in clamps)


def _is_made_from(node: fx.Node, members: Sequence[str]) -> bool:
    sources = node.all_input_nodes
    return bool(sources) and all(source.name in members for source in sources)


def _clamps_behind(graph: fx.GraphModule, node: fx.Node) -> list[Any] | None:
    """The clamps that all values of ``node`` end in; None if anything else reads one, or nothing
    does."""
    found: list[Any] = []
    for user in node.users:
        reader = module_at(graph, user)
        if isinstance(reader, nn.Hardtanh):
            found.append(reader)
            continue
        behind = _clamps_behind(graph, user) if _moves(reader) else None
        if behind is None:
            return None
        found += behind
    return found or None


def _moves(reader: nn.Module | None) -> bool:
    form = form_of(reader)
    return isinstance(reader, Concat) or (form is not None and form.moves)
