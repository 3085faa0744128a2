"""Small helpers over observed FX graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.ao.quantization import FakeQuantizeBase
from torch.ao.quantization.backend_config import BackendConfig, ObservationType
from torch.ao.quantization.observer import ObserverBase

_MOVING_MODULES = (nn.Flatten, nn.Unflatten, nn.Identity, nn.PixelShuffle, nn.PixelUnshuffle)
_MOVING_FUNCTIONS = (torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze)
_MOVING_METHODS = ("contiguous", "flatten", "permute", "reshape", "squeeze", "transpose", "unsqueeze", "view")


def moves_values(prepared: fx.GraphModule, node: fx.Node) -> bool:
    """Whether ``node`` returns the values of its first input in another shape or order."""
    if node.op == "call_module":
        return isinstance(called(prepared, node), _MOVING_MODULES)
    return (node.op == "call_function" and node.target in _MOVING_FUNCTIONS) or (
        node.op == "call_method" and node.target in _MOVING_METHODS
    )


@dataclass
class Moved:
    """Where the values of a node go: the quantizers that they pass unchanged, and the nodes that compute with them."""

    quantizers: list[fx.Node] = field(default_factory=list)
    readers: list[fx.Node] = field(default_factory=list)


def moved_from(prepared: fx.GraphModule, node: fx.Node) -> Moved:
    """Follow the values of ``node`` through nodes that only move them."""
    found = Moved()
    open_nodes = [node]
    while open_nodes:
        for user in open_nodes.pop().users:
            if is_quantizer(prepared, user):
                found.quantizers.append(user)
            if is_quantizer(prepared, user) or moves_values(prepared, user):
                open_nodes.append(user)
            else:
                found.readers.append(user)
    return found


def observe_inputs(prepared: fx.GraphModule, config: BackendConfig, observer: Callable[[], nn.Module]) -> None:
    """Observe every input that reaches a quantizer only through nodes that keep one (a pool, a reshape). In place."""
    for node in prepared.graph.find_nodes(op="placeholder"):
        if any(is_quantizer(prepared, user) for user in node.users) or not _reaches_quantizer(prepared, node, config):
            continue
        target = f"{node.name}_observer"
        prepared.add_submodule(target, observer())
        with prepared.graph.inserting_after(node):
            entry = prepared.graph.call_module(target, (node,))
        node.replace_all_uses_with(entry, delete_user_cb=lambda user, entry=entry: user is not entry)
    prepared.recompile()


def _reaches_quantizer(prepared: fx.GraphModule, node: fx.Node, config: BackendConfig) -> bool:
    return any(
        is_quantizer(prepared, user) or (keeps_quantizer(prepared, user, config) and _reaches_quantizer(prepared, user, config))
        for user in node.users
    )


def share_observers(prepared: fx.GraphModule, config: BackendConfig) -> None:
    """Give everything around a node whose int8 kernel keeps its input's quantizer the same observer. In place.

    torch.ao shares along each such node, but where two meet (a ReLU6 before a concatenation) one of them loses its share,
    and the int8 kernel computes with another quantizer than the graph says.
    """
    for node in prepared.graph.nodes:
        if not keeps_quantizer(prepared, node, config):
            continue
        around = [other for other in (*node.all_input_nodes, *node.users) if is_quantizer(prepared, other)]
        observers = {id(called(prepared, other)): called(prepared, other) for other in around}
        for other in prepared.graph.nodes if len(observers) > 1 else ():
            if is_quantizer(prepared, other) and id(called(prepared, other)) in observers:
                prepared.set_submodule(str(other.target), next(iter(observers.values())))


def keeps_quantizer(prepared: fx.GraphModule, node: fx.Node, config: BackendConfig) -> bool:
    """Whether ``node`` moves values, or its int8 kernel writes with the quantizer that it reads with."""
    if moves_values(prepared, node):
        return True
    pattern = type(called(prepared, node)) if node.op == "call_module" else node.target
    known = config._pattern_complex_format_to_config.get(pattern)
    return known is not None and known.observation_type == ObservationType.OUTPUT_SHARE_OBSERVER_WITH_INPUT


def input_quantizers(prepared: fx.GraphModule) -> list[fx.Node]:
    """The nodes that observe a placeholder."""
    return [user for node in prepared.graph.find_nodes(op="placeholder") for user in node.users if is_quantizer(prepared, user)]


def is_quantizer(prepared: fx.GraphModule, node: fx.Node) -> bool:
    """Whether ``node`` calls an observer or a fake quantizer."""
    return node.op == "call_module" and isinstance(called(prepared, node), (ObserverBase, FakeQuantizeBase))


def called(prepared: fx.GraphModule, node: Any) -> Any:
    """The module that ``node`` calls. Its attributes depend on its kind, so that its static type would not help."""
    return prepared.get_submodule(str(node.target))
