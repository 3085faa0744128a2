"""Small helpers over observed FX graphs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.ao.quantization import FakeQuantizeBase
from torch.ao.quantization.observer import ObserverBase

_MOVING_MODULES = (nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.PixelShuffle)
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


def observe_inputs_first(prepared: fx.GraphModule) -> None:
    """Observe an input before it is moved (flattened, ...), where torch.ao only observes it behind. In place."""
    for node in prepared.graph.find_nodes(op="placeholder"):
        moved = moved_from(prepared, node)
        direct = [user for user in node.users if is_quantizer(prepared, user)]
        if direct or not moved.quantizers:
            continue
        with prepared.graph.inserting_after(node):
            entry = prepared.graph.call_module(str(moved.quantizers[0].target), (node,))
        node.replace_all_uses_with(entry, delete_user_cb=lambda user, entry=entry: user is not entry)
    prepared.recompile()


def input_quantizers(prepared: fx.GraphModule) -> list[fx.Node]:
    """The nodes that observe a placeholder."""
    return [user for node in prepared.graph.find_nodes(op="placeholder") for user in node.users if is_quantizer(prepared, user)]


def is_quantizer(prepared: fx.GraphModule, node: fx.Node) -> bool:
    """Whether ``node`` calls an observer or a fake quantizer."""
    return node.op == "call_module" and isinstance(called(prepared, node), (ObserverBase, FakeQuantizeBase))


def called(prepared: fx.GraphModule, node: Any) -> Any:
    """The module that ``node`` calls. Its attributes depend on its kind, so that its static type would not help."""
    return prepared.get_submodule(str(node.target))
