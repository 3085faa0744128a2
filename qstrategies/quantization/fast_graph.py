"""The same function with less work per training step: pooling first, each rounding once, statistics where they are cheapest.

ReLU, fake quantization and (with no negative weight) batch normalization are monotone, so that they commute with max
pooling, which leaves a quarter of the elements for them; a fake quantizer applied twice is one. Flattening and
dropout-free copies do not change values either.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.ao.nn.intrinsic import qat as nniqat

from qstrategies.quantization.graph import called, is_quantizer
from qstrategies.quantization.input_norm import InputNorm
from qstrategies.quantization.pooled_norm import NormAndPool

_FUSED_RELU = (nniqat.ConvBnReLU1d, nniqat.ConvBnReLU2d)
_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_MOVES_VALUES = (*_POOLS, nn.Flatten, nn.Identity)
_MOVES_VALUES_FUNCTIONS = (torch.flatten, torch.reshape)


class _BeforeNorm(nn.Module):
    """A fused conv-BN-ReLU module up to its BN."""

    def __init__(self, fused: Any) -> None:
        super().__init__()
        self.fused: Any = fused

    @property
    def weight(self) -> Tensor:
        """Fake-quantized as the folded layer is, then unfolded."""
        return self.fused.weight_before_norm()

    @property
    def bias(self) -> Tensor | None:
        """Of the convolution."""
        return self.fused.bias

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self.fused._conv_forward(x, weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight, self.bias)


def fast_view(model: nn.Module) -> fx.GraphModule:
    """A graph that shares every submodule (and so every parameter and hook) with ``model``; the same function."""
    traced = model if isinstance(model, fx.GraphModule) else fx.symbolic_trace(model)
    graph = fx.Graph()
    graph.output(graph.graph_copy(traced.graph, {}))
    view = fx.GraphModule(traced, graph)
    while _improve(view):
        pass
    graph.lint()
    view.recompile()
    return view


def _improve(view: fx.GraphModule) -> bool:
    return any(_improve_at(view, node) for node in view.graph.nodes)


def _improve_at(view: fx.GraphModule, node: fx.Node) -> bool:
    """Merge ``node`` into, or move, split or drop, the module before it; True if the graph changed."""
    if _calls(view, node, (nn.BatchNorm2d,)) and _merge_into_convolution(view, node):
        return True
    if not _calls(view, node, _MOVES_VALUES) and not (node.op == "call_function" and node.target in _MOVES_VALUES_FUNCTIONS):
        return False
    before = node.args[0]
    if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
        return False
    module, (source, *_) = called(view, before), before.all_input_nodes
    if is_quantizer(view, before) and _only_user(view, node) is module:
        before.replace_all_uses_with(source)
        view.graph.erase_node(before)
        return True
    if _calls(view, node, _POOLS) and called(view, node).return_indices:
        return False
    if isinstance(module, nn.ReLU):
        node.replace_input_with(before, source)
        _insert_after(node, before)
        return True
    if not _calls(view, node, _POOLS):
        return False
    if isinstance(module, _FUSED_RELU):
        _split(view, before, module)
        return True
    if isinstance(module, nn.BatchNorm2d):
        _merge(view, before, node)
        return True
    return False


def _calls(view: fx.GraphModule, node: fx.Node, kinds: tuple[type[nn.Module], ...]) -> bool:
    return node.op == "call_module" and isinstance(called(view, node), kinds)


def _insert_after(node: fx.Node, relu: fx.Node) -> None:
    node.append(relu)
    node.replace_all_uses_with(relu, delete_user_cb=lambda user: user is not relu)
    relu.args = (node,)


def _split(view: fx.GraphModule, fused: fx.Node, module: Any) -> None:
    """Make ``fused`` a convolution, a BN and a ReLU; the next rounds move the latter two behind the pool."""
    norm = _append(view, fused, f"{fused.name}_norm", module.bn)
    _append(view, norm, f"{fused.name}_relu", nn.ReLU())
    fused.target = f"{fused.name}_before_norm"
    view.add_submodule(fused.target, _BeforeNorm(module))


def _append(view: fx.GraphModule, node: fx.Node, target: str, module: nn.Module) -> fx.Node:
    """Apply ``module`` to what ``node`` returns, for all its users."""
    view.add_submodule(target, module)
    with view.graph.inserting_after(node):
        after = view.graph.call_module(target, (node,))
    node.replace_all_uses_with(after, delete_user_cb=lambda user: user is not after)
    return after


def _merge(view: fx.GraphModule, norm: fx.Node, pool: fx.Node) -> None:
    merged = NormAndPool(called(view, norm), called(view, pool))
    view.add_submodule(f"{norm.name}_and_pool", merged)
    pool.target, pool.args = f"{norm.name}_and_pool", norm.args
    view.graph.erase_node(norm)


def _merge_into_convolution(view: fx.GraphModule, norm: fx.Node) -> bool:
    """Replace ``norm`` and the convolution of the input before it, if that is what it is and if it is worth it."""
    convolution = norm.args[0]
    if not isinstance(convolution, fx.Node) or not _calls(view, convolution, (nn.Conv2d, _BeforeNorm)) or len(convolution.users) > 1:
        return False
    conv = called(view, convolution)
    geometry = conv.fused if isinstance(conv, _BeforeNorm) else conv
    if not _is_input(view, convolution.args[0]) or not InputNorm.suits(geometry, called(view, norm)):
        return False
    target = f"{norm.name}_of_input"
    view.add_submodule(target, InputNorm(conv, geometry, called(view, norm)))
    norm.target, norm.args = target, convolution.args
    view.graph.erase_node(convolution)
    return True


def _is_input(view: fx.GraphModule, node: Any) -> bool:
    return node.op == "placeholder" or (is_quantizer(view, node) and _is_input(view, node.args[0]))


def _only_user(view: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    users = list(node.users)
    return called(view, users[0]) if len(users) == 1 and users[0].op == "call_module" else None
