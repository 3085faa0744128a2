"""A normalized graph -> one that every executor can compute to the same bits. In place, before
quantizers are placed.

* Reshapes back and forth go, and expansions that the reader does by itself.
* What only acts in training goes, and a ReLU comes back to the layer that it can join.
* A batch normalization is folded into the layer before it; one that stands alone gets a depthwise
  1 x 1 layer of ones, in training too, which has an integer kernel.
* Pixels that not only layers read get a layer of ones, to fold their step into.
* ReLU6 becomes the saturation of a uint8 tensor where it can (``saturation.py``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from qstrategies.errors import InputError
from qstrategies.operators.addition import Add, Subtract
from qstrategies.operators.base import form_of, shape_of
from qstrategies.operators.convolution import CONVOLUTIONS
from qstrategies.operators.dropout import TRAINING_ONLY
from qstrategies.operators.expansion import Expand
from qstrategies.operators.movement import Reshape
from qstrategies.operators.normalization import NORMS
from qstrategies.operators.product import Multiply
from qstrategies.operators.transposed import is_transposed

NORM_KINDS = tuple(set(NORMS.values()))
BROADCASTING = (Add, Subtract, Multiply)


def module_at(graph: fx.GraphModule, node: Any) -> Any:
    """The module that ``node`` calls; None for anything but such a node."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    found: Any = graph
    for name in str(node.target).split("."):  # a fifth of get_submodule's time
        found = found._modules[name]
    return found


def is_layer(graph: fx.GraphModule, node: Any) -> bool:
    """Whether ``node`` calls a layer with weights, no batch normalization."""
    module = module_at(graph, node)
    form = form_of(module)
    return form is not None and form.weighted and not isinstance(module, NORM_KINDS)


def drop_training_only(graph: fx.GraphModule) -> None:
    """Take out what does nothing in evaluation."""
    for node in list(graph.graph.nodes):
        if isinstance(module_at(graph, node), TRAINING_ONLY):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)


def drop_round_trips(graph: fx.GraphModule) -> None:
    """Take out reshapes that only lead back to a shape that was there: rows of a linear layer to
    [N, T, C] and back."""
    for node in list(graph.graph.nodes):
        source = node
        while isinstance(module_at(graph, source), Reshape):
            source = source.args[0]
            if shape_of(source) == shape_of(node):
                node.replace_all_uses_with(source)
                break
    _drop_unused(graph, Reshape)


def let_readers_broadcast(graph: fx.GraphModule) -> None:
    """Let what computes with two tensors broadcast one by itself, in the place of an expansion."""
    for node in graph.graph.nodes:
        if not isinstance(module_at(graph, node), BROADCASTING):
            continue
        a, b = node.args
        for source, other in ((a, b), (b, a)):
            whole = shape_of(other) == shape_of(node)
            if whole and source is not other and isinstance(module_at(graph, source), Expand):
                node.replace_input_with(source, source.args[0])
                break
    _drop_unused(graph, Expand)


def _drop_unused(graph: fx.GraphModule, kind: type[nn.Module]) -> None:
    for node in reversed(list(graph.graph.nodes)):
        if isinstance(module_at(graph, node), kind) and not node.users:
            graph.graph.erase_node(node)


def entry_layers(graph: fx.GraphModule) -> None:
    """Give pixels that not only layers read a layer to fold their step into. Raises ``InputError``
    for those that are no image."""
    for node in graph.graph.find_nodes(op="placeholder"):
        if node.meta["dtype"] != torch.float32 or _only_layers_read(graph, node):
            continue
        shape = shape_of(node)
        channels = shape[1] if len(shape) > 1 else None
        if len(shape) - 2 not in CONVOLUTIONS or channels is None:
            reader = next(iter(node.users), node).name
            raise InputError(
                f"input {node.name!r} of shape {shape} is read by {reader}: leave input_scale None"
            )
        entry = _of_ones(graph, node, f"{node.name}_pixels", channels)
        node.replace_all_uses_with(
            entry, delete_user_cb=lambda user, entry=entry: user is not entry
        )


def _of_ones(graph: fx.GraphModule, node: fx.Node, name: str, channels: int) -> fx.Node:
    """A depthwise layer that changes nothing, and is no layer of the user's, behind ``node``."""
    kind: Any = CONVOLUTIONS[len(shape_of(node)) - 2]
    layer = kind(channels, channels, 1, groups=channels, bias=False)
    layer.of_ones = True
    nn.init.ones_(layer.weight)
    return _inserted(graph, node, name, layer.eval().requires_grad_(False))


def _inserted(graph: fx.GraphModule, node: fx.Node, name: str, module: nn.Module) -> fx.Node:
    """A call of ``module`` on what ``node`` gives, of the same shape."""
    graph.add_submodule(name, module)
    with graph.graph.inserting_after(node):
        called = graph.graph.call_module(name, (node,))
    called.meta = dict(node.meta)
    return called


def _only_layers_read(graph: fx.GraphModule, node: fx.Node) -> bool:
    for user in node.users:
        form = form_of(module_at(graph, user))
        moves = form is not None and form.moves
        if not is_layer(graph, user) and not (moves and _only_layers_read(graph, user)):
            return False
    return True


def relus_to_layers(graph: fx.GraphModule) -> None:
    """Bring a ReLU that is only moved away from what it could join back to it: a linear layer on
    [N, T, C] ends in a reshape."""
    for node in list(graph.graph.nodes):
        if type(module_at(graph, node)) is nn.ReLU:
            while _moved_away(graph, node):
                _before_its_source(node)


def _moved_away(graph: fx.GraphModule, relu: fx.Node) -> bool:
    """Whether ``relu`` alone reads what is only moved from something that takes a ReLU."""
    movement: Any = relu.args[0]
    if not _moves_alone(graph, movement):
        return False
    source = movement.args[0]
    while _moves_alone(graph, source):
        source = source.args[0]
    form = form_of(module_at(graph, source))
    return form is not None and form.takes_relu and len(source.users) == 1


def _moves_alone(graph: fx.GraphModule, node: fx.Node) -> bool:
    form = form_of(module_at(graph, node))
    return form is not None and form.moves and len(node.users) == 1


def _before_its_source(node: fx.Node) -> None:
    """Exchange ``node`` and the only node that it reads, which nothing else reads."""
    source: Any = node.args[0]
    node.replace_all_uses_with(source)
    node.args, source.args = source.args, (node, *source.args[1:])
    source.prepend(node)
    node.meta = {**node.meta, "shape": node.args[0].meta["shape"]}  # type: ignore[union-attr]


def layers_before_norms(graph: fx.GraphModule) -> None:
    """Give every standing batch normalization a depthwise layer of ones to be folded into."""
    for node in list(graph.graph.nodes):
        norm = module_at(graph, node)
        if isinstance(norm, NORM_KINDS) and not folds(graph, node):
            if len(shape_of(node)) == 2:
                _as_image(graph, node, norm.num_features)
            source: Any = node.args[0]
            layer = _of_ones(graph, source, f"{node.target}_layer", norm.num_features)
            node.replace_input_with(source, layer)


def folds(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the batch normalization at ``node`` can be folded into the layer before it."""
    before: Any = node.args[0]
    if not is_layer(graph, before) or len(before.users) > 1:
        return False
    layer = module_at(graph, before)
    by_channel = isinstance(layer, nn.Linear) or len(shape_of(node)) > 2
    groups_of_transposed = is_transposed(layer) and layer.groups > 1
    return by_channel and not groups_of_transposed


def folded_norm(graph: fx.GraphModule, node: fx.Node) -> Any | None:
    """The batch normalization that is to be folded into the layer at ``node``, if there is one."""
    reader = next(iter(node.users), None)
    norm = module_at(graph, reader)
    if reader is None or not isinstance(norm, NORM_KINDS) or not folds(graph, reader):
        return None
    return norm


def norm_factor(layer: Any, norm: Any) -> Tensor:
    """What folding ``norm`` into ``layer`` multiplies its weight by, shaped to go with it."""
    factor = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach()
    shape = [1] * layer.weight.dim()
    shape[1 if is_transposed(layer) else 0] = -1
    return factor.reshape(shape)


def folded_parameters(layer: Any, norm: Any | None) -> tuple[Tensor, Tensor]:
    """The weight and the bias [out_channels] of ``layer`` with ``norm`` folded in, if there is one
    (Jacob et al., arXiv 1712.05877, section 3.2)."""
    bias = layer.bias
    if bias is None:
        bias = torch.zeros(len(output_rows(layer)), device=layer.weight.device)
    if norm is None:
        return layer.weight, bias
    factor = norm_factor(layer, norm)
    return layer.weight * factor, (bias - norm.running_mean) * factor.flatten() + norm.bias


def _as_image(graph: fx.GraphModule, node: fx.Node, channels: int) -> None:
    """Let ``node`` work on rows as on images of one pixel."""
    source: Any = node.args[0]
    shape = shape_of(node)
    image = _inserted(graph, source, f"{node.name}_image", Reshape((-1, channels, 1)))
    image.meta["shape"] = (*shape, 1)
    node.args = (image,)
    rows = _inserted(graph, node, f"{node.name}_rows", Reshape((-1, channels)))
    node.meta["shape"] = (*shape, 1)
    node.replace_all_uses_with(rows, delete_user_cb=lambda user: user is not rows)


@torch.no_grad()
def fold_norms(graph: fx.GraphModule) -> None:
    """Batch normalizations into the layers before them, which then stand where the norms stood."""
    for node in list(graph.graph.nodes):
        norm = module_at(graph, node)
        if not isinstance(norm, NORM_KINDS):
            continue
        assert folds(graph, node), node
        before: Any = node.args[0]
        layer = module_at(graph, before)
        weight, bias = folded_parameters(layer, norm)
        layer.weight, layer.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
        node.target, node.args = before.target, before.args
        graph.graph.erase_node(before)
    graph.recompile()


def output_rows(layer: Any, weight: Tensor | None = None) -> Tensor:
    """``weight`` (default: that of ``layer``) with one row of products per output channel,
    [out_channels, ...]."""
    chosen: Tensor = layer.weight if weight is None else weight
    return kernels_of(layer, chosen).flatten(1) if is_transposed(layer) else chosen


def kernels_of(layer: Any, weight: Tensor) -> Tensor:
    """``weight`` of ``layer`` as [out_channels, in_channels of the group, window]."""
    if not is_transposed(layer):
        return weight.reshape(*weight.shape[:2], -1)
    inputs, outputs = weight.shape[:2]  # out_channels of the group
    grouped = weight.reshape(layer.groups, inputs // layer.groups, outputs, -1)
    return grouped.transpose(1, 2).reshape(layer.groups * outputs, inputs // layer.groups, -1)


def from_kernels(layer: Any, kernels: Tensor) -> Tensor:
    """The inverse of ``kernels_of``."""
    shape = layer.weight.shape
    if not is_transposed(layer):
        return kernels.reshape(shape)
    grouped = kernels.reshape(layer.groups, shape[1], shape[0] // layer.groups, -1)
    return grouped.transpose(1, 2).reshape(shape)
