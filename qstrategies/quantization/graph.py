"""Small helpers over observed FX graphs."""

from __future__ import annotations

from typing import Any

from torch import fx
from torch.ao.quantization import FakeQuantizeBase
from torch.ao.quantization.observer import ObserverBase


def input_quantizers(prepared: fx.GraphModule) -> list[fx.Node]:
    """The nodes that observe a placeholder."""
    return [user for node in prepared.graph.find_nodes(op="placeholder") for user in node.users if is_quantizer(prepared, user)]


def is_quantizer(prepared: fx.GraphModule, node: fx.Node) -> bool:
    """Whether ``node`` calls an observer or a fake quantizer."""
    return node.op == "call_module" and isinstance(called(prepared, node), (ObserverBase, FakeQuantizeBase))


def called(prepared: fx.GraphModule, node: Any) -> Any:
    """The module that ``node`` calls. Its attributes depend on its kind, so that its static type would not help."""
    return prepared.get_submodule(str(node.target))
