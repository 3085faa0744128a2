"""The same function with less work per training step: pooling first, each rounding once, statistics
where they are cheapest.

ReLU, fake quantization and (with no negative weight) batch normalization are monotone, so that they
commute with max pooling, which leaves a quarter of the elements for them; a fake quantizer applied
twice is one. Flattening and dropout-free copies do not change values either.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from qstrategies.operators.movement import Reshape
from qstrategies.quantization.activation_quantizers import ActivationQuantizer
from qstrategies.quantization.exact_forms import module_at
from qstrategies.quantization.fake_quantized import FakeQuantizedLayer
from qstrategies.quantization.qat import FakeQuantizedModel
from qstrategies.training.input_norm import InputNorm
from qstrategies.training.pooled_norm import NormAndPool

_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_MOVES_VALUES = (*_POOLS, nn.Flatten, nn.Identity, Reshape)
_MOVES_VALUES_FUNCTIONS = (torch.flatten, torch.reshape)


def fast_view(model: nn.Module) -> nn.Module:
    """A graph that shares every submodule (and so every parameter and hook) with ``model``; the
    same function. What torch.fx cannot trace, or not once for both modes, is trained as it is."""
    traced = model.view if isinstance(model, FakeQuantizedModel) else _traced(model)
    if traced is None:
        return model
    graph = fx.Graph()
    graph.output(graph.graph_copy(traced.graph, {}))
    view = fx.GraphModule(traced, graph)
    while _improve(view):
        pass
    graph.lint()
    view.recompile()
    return view


def _traced(model: nn.Module) -> fx.GraphModule | None:
    modes = {module: module.training for module in model.modules()}
    try:
        evaluated, trained = (fx.symbolic_trace(model.train(mode)) for mode in (False, True))
    except Exception:  # whatever the forward of somebody's model raises when it is given a proxy
        return None
    finally:
        for module, mode in modes.items():
            module.training = mode
    return trained if str(evaluated.graph) == str(trained.graph) else None


def _improve(view: fx.GraphModule) -> bool:
    return any(_improve_at(view, node) for node in view.graph.nodes)


def _improve_at(view: fx.GraphModule, node: fx.Node) -> bool:
    """Merge ``node`` into, or move, split or drop, the module before it; True if the graph
    changed."""
    if _calls(view, node, (nn.BatchNorm2d,)) and _merge_into_convolution(view, node):
        return True
    if not _calls(view, node, _MOVES_VALUES) and not (
        node.op == "call_function" and node.target in _MOVES_VALUES_FUNCTIONS
    ):
        return False
    before = node.args[0]
    if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
        return False
    module, (source, *_) = module_at(view, before), before.all_input_nodes
    if _calls(view, before, (ActivationQuantizer,)) and _only_user(view, node) is module:
        before.replace_all_uses_with(source)
        view.graph.erase_node(before)
        return True
    if _calls(view, node, _POOLS) and module_at(view, node).return_indices:
        return False
    if isinstance(module, nn.ReLU):
        node.replace_input_with(before, source)
        _insert_after(node, before)
        return True
    if not _calls(view, node, _POOLS):
        return False
    if isinstance(module, nn.BatchNorm2d):
        _merge(view, before, node)
        return True
    return False


def _calls(view: fx.GraphModule, node: fx.Node, kinds: tuple[type[nn.Module], ...]) -> bool:
    return node.op == "call_module" and isinstance(module_at(view, node), kinds)


def _insert_after(node: fx.Node, relu: fx.Node) -> None:
    node.append(relu)
    node.replace_all_uses_with(relu, delete_user_cb=lambda user: user is not relu)
    relu.args = (node,)


def _merge(view: fx.GraphModule, norm: fx.Node, pool: fx.Node) -> None:
    merged = NormAndPool(module_at(view, norm), module_at(view, pool))
    view.add_submodule(f"{norm.name}_and_pool", merged)
    pool.target, pool.args = f"{norm.name}_and_pool", norm.args
    view.graph.erase_node(norm)


def _merge_into_convolution(view: fx.GraphModule, norm: fx.Node) -> bool:
    """Replace ``norm`` and the convolution of the input before it, if that is what it is and if it
    is worth it."""
    convolution = norm.args[0]
    if not isinstance(convolution, fx.Node) or len(convolution.users) > 1:
        return False
    conv = module_at(view, convolution)
    geometry = conv.layer if isinstance(conv, FakeQuantizedLayer) else conv
    if (
        not isinstance(geometry, nn.Conv2d)
        or not _is_input(view, convolution.args[0])
        or not InputNorm.suits(geometry, module_at(view, norm))
    ):
        return False
    target = f"{norm.name}_of_input"
    view.add_submodule(target, InputNorm(conv, geometry, module_at(view, norm)))
    norm.target, norm.args = target, convolution.args
    view.graph.erase_node(convolution)
    return True


def _is_input(view: fx.GraphModule, node: Any) -> bool:
    return node.op == "placeholder" or (
        _calls(view, node, (ActivationQuantizer,)) and _is_input(view, node.args[0])
    )


def _only_user(view: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    users = list(node.users)
    return module_at(view, users[0]) if len(users) == 1 and users[0].op == "call_module" else None
