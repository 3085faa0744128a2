"""Float model -> an equivalent graph of operators that every executor can compute to the same bits.

* A nonlinear function of one number (hard-swish, SiLU, sigmoid, ...) becomes a module of its own, ``Elementwise``. Once the
  quantizers around it are decided, it is a table of 256 values: no executor's own approximation or rounding is left.
* A batch normalization that follows no convolution becomes a depthwise 1x1 convolution, which has an integer kernel.
* A layer that is called twice becomes two of equal weights: each call has its own input scale, so its own bias grid.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from qstrategies.errors import InputError, unknown
from qstrategies.quantization.graph import called, is_quantizer, moved_from

ELEMENTWISE_MODULES = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.SELU,
    nn.Sigmoid,
    nn.SiLU,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
)
ELEMENTWISE_FUNCTIONS = {
    functional.celu,
    functional.elu,
    functional.gelu,
    functional.hardsigmoid,
    functional.hardswish,
    functional.leaky_relu,
    functional.logsigmoid,
    functional.mish,
    functional.selu,
    functional.sigmoid,
    functional.silu,
    functional.softplus,
    functional.softsign,
    functional.tanh,
    torch.sigmoid,
    torch.tanh,
}
ELEMENTWISE_METHODS = {"sigmoid", "tanh"}
NORMS: dict[type[nn.Module], Any] = {nn.BatchNorm1d: nn.Conv1d, nn.BatchNorm2d: nn.Conv2d, nn.BatchNorm3d: nn.Conv3d}
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
WEIGHTED = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)


FUNCTIONAL_LAYERS = (
    functional.conv1d,
    functional.conv2d,
    functional.conv3d,
    functional.linear,
    functional.conv_transpose1d,
    functional.conv_transpose2d,
    functional.conv_transpose3d,
)


class Elementwise(nn.Module):
    """``function`` of every element."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class LookupTable(nn.Module):
    """A function of the 256 values of its input's quantizer: ``values`` [256], real, on its output's quantizer."""

    values: Tensor

    def __init__(self, values: Tensor, scale: float, zero_point: int) -> None:
        super().__init__()
        self.register_buffer("values", values)
        self.scale, self.zero_point = scale, zero_point

    def forward(self, x: Tensor) -> Tensor:
        index = torch.round(x / self.scale + self.zero_point).to(torch.int64)
        return functional.embedding(index, self.values[:, None]).squeeze(-1)


def exact_forms(model: nn.Module, example: tuple[Tensor, ...], left: Collection[str], *, pixels: bool) -> fx.GraphModule:
    """A traced copy of ``model`` in the forms above, in the model's own mode; ``model`` is not changed.

    Args:
        left: names of modules to leave as they are; what lies in them is not traced.
        pixels: whether the inputs are scaled pixels, whose step is to be folded into the layers that read them.

    Raises:
        InputError: a module that cannot be traced, or a layer without a module of its own.
    """
    traced = trace(copy.deepcopy(model), left)
    _refuse_functional_layers(traced)
    _numeric_padding(traced)
    _untie(traced)
    _clamps(traced)
    _elementwise(traced, left)
    if not traced.training:
        _fold_into_transposed(traced, left)
        _norms_to_convolutions(traced, example, left)
    if pixels:
        _entry_layers(traced, example)
    traced.graph.lint()
    traced.recompile()
    return traced


def left_in_float(model: nn.Module, chosen: Collection[str | type[nn.Module]]) -> list[str]:
    """The names of the modules that ``chosen`` means by name or type; raises ``InputError`` for a name that none has."""
    known = [name for name, _ in model.named_modules() if name]
    for name in chosen:
        if isinstance(name, str) and name not in known:
            raise unknown("module", name, known)
    types = tuple(kind for kind in chosen if not isinstance(kind, str))
    return [name for name, module in model.named_modules() if name and (name in chosen or isinstance(module, types))]


class _Tracer(fx.Tracer):
    def __init__(self, left: Collection[str]) -> None:
        super().__init__()
        self.left = left

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.left or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module, left: Collection[str]) -> fx.GraphModule:
    """``model`` as an FX graph that shares its modules. Raises ``InputError`` naming the module that cannot be traced."""
    root = nn.Sequential(model) if isinstance(model, WEIGHTED) else model
    try:
        return fx.GraphModule(root, _Tracer(left).trace(root))
    except Exception as error:  # whatever the forward of somebody's model raises when given proxies
        name = _culprit(model, left)
        where = f"module {name!r} ({type(model.get_submodule(name)).__name__})" if name else type(model).__name__
        advice = f"leave it in float with leave_in_float=[{name!r}]" if name else "move its untraceable part into a module of its own"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{where} cannot be traced ({reason}): {advice}") from None


def _culprit(model: nn.Module, left: Collection[str]) -> str:
    """The innermost module that cannot be traced by itself; "" if that is the whole model."""
    for name, module in reversed(list(model.named_modules())):
        if not name or any(name == other or name.startswith(f"{other}.") for other in left):
            continue
        try:
            _Tracer(()).trace(module)
        except Exception:
            return name
    return ""


def _refuse_functional_layers(traced: fx.GraphModule) -> None:
    for node in traced.graph.nodes:
        if node.op == "call_function" and node.target in FUNCTIONAL_LAYERS:
            weight = str(node.args[1] if len(node.args) > 1 else node.kwargs.get("weight"))
            raise InputError(f"{node.target.__name__} with the weight {weight!r} is not a module: make it a layer (nn.Module)")


def _numeric_padding(traced: fx.GraphModule) -> None:
    """The padding "same" as numbers: int8 kernels take no other."""
    for name, module in traced.named_modules():
        if not isinstance(module, CONVOLUTIONS) or not isinstance(module.padding, str):
            continue
        reach = [dilation * (size - 1) for dilation, size in zip(module.dilation, module.kernel_size, strict=True)]
        total = reach if module.padding == "same" else [0] * len(reach)
        if any(each % 2 for each in total):
            raise InputError(f"padding 'same' of {name!r} is not symmetric: pad with nn.ZeroPad2d before it, or use an odd kernel")
        module.padding = tuple(each // 2 for each in total)


def _untie(traced: fx.GraphModule) -> None:
    seen: set[str] = set()
    for node in list(traced.graph.nodes):
        if node.op != "call_module" or not isinstance(traced.get_submodule(node.target), WEIGHTED):
            continue
        if node.target in seen:
            target = f"{node.target}_again_{len(seen)}"
            traced.add_submodule(target, copy.deepcopy(traced.get_submodule(node.target)))
            node.target = target
        seen.add(node.target)


def _clamps(traced: fx.GraphModule) -> None:
    """Functional ReLU6 as its module, so that there is one form to look for; none in place: qnnpack's kernel then mixes
    up memory layouts."""
    for node in list(traced.graph.nodes):
        if node.op == "call_function" and node.target is functional.relu6:
            _replace(traced, node, f"{node.name}_module", nn.ReLU6())
    for module in traced.modules():
        if isinstance(module, nn.Hardtanh):
            module.inplace = False


def _replace(traced: fx.GraphModule, node: fx.Node, target: str, module: nn.Module) -> None:
    """Let ``module``, under the name ``target``, do what ``node`` does to its only tensor."""
    traced.add_submodule(target, module)
    with traced.graph.inserting_before(node):
        replacement = traced.graph.call_module(target, (node.all_input_nodes[0],))
    node.replace_all_uses_with(replacement)
    traced.graph.erase_node(node)


def _elementwise(traced: fx.GraphModule, left: Collection[str]) -> None:
    for node in list(traced.graph.nodes):
        function = _elementwise_function(traced, node)
        if function is None or (node.op == "call_module" and node.target in left):
            continue
        _replace(traced, node, f"{node.name}_elementwise", Elementwise(function))


def _elementwise_function(traced: fx.GraphModule, node: fx.Node) -> Any | None:
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        return module if isinstance(module, ELEMENTWISE_MODULES) else None
    if len(node.all_input_nodes) != 1:
        return None
    if node.op == "call_function" and node.target in ELEMENTWISE_FUNCTIONS:
        settings = {name: value for name, value in node.kwargs.items() if name not in ("inplace", "input")}
        return functools.partial(_call, node.target, tuple(node.args[1:]), settings)
    if node.op == "call_method" and node.target in ELEMENTWISE_METHODS:
        return getattr(torch, str(node.target))
    return None


@torch.no_grad()
def tabulate(prepared: fx.GraphModule) -> None:
    """Make every ``Elementwise`` between two decided quantizers a ``LookupTable``. In place."""
    for node in prepared.graph.nodes:
        if node.op != "call_module" or not isinstance(module := called(prepared, node), Elementwise):
            continue
        after = [user for user in node.users if is_quantizer(prepared, user)]
        if not after or not is_quantizer(prepared, node.args[0]):
            continue
        entry, end = called(prepared, node.args[0]), called(prepared, after[0])
        inputs = (torch.arange(256) - entry.zero_point) * entry.scale
        steps = torch.round(module(inputs).double() / end.scale) + end.zero_point
        values = (steps.clamp(end.quant_min, end.quant_max) - end.zero_point) * end.scale
        prepared.set_submodule(str(node.target), LookupTable(values.float(), entry.scale, entry.zero_point))


def _call(function: Any, settings: Sequence[Any], named: dict[str, Any], x: Tensor) -> Tensor:
    return function(x, *settings, **named)


def _fold_into_transposed(traced: fx.GraphModule, left: Collection[str]) -> None:
    """Batch normalization behind a transposed convolution, which torch.ao leaves standing where a ReLU follows."""
    for node in list(traced.graph.nodes):
        norm = called(traced, node) if node.op == "call_module" else None
        if norm is not None and type(norm) in NORMS and not {node.target, node.args[0].target} & set(left) and _fused(traced, node.args[0]):
            before = node.args[0]
            if isinstance(called(traced, before), TRANSPOSED):
                traced.set_submodule(str(before.target), fuse_conv_bn_eval(called(traced, before), norm, transpose=True))
                node.replace_all_uses_with(before)
                traced.graph.erase_node(node)


def _norms_to_convolutions(traced: fx.GraphModule, example: tuple[Tensor, ...], left: Collection[str]) -> None:
    ShapeProp(traced).propagate(*example)
    for node in traced.graph.nodes:
        norm = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
        convolution = NORMS.get(type(norm))  # type: ignore[arg-type]
        if norm is None or convolution is None or node.target in left or _fused(traced, node.args[0]):
            continue
        if len(node.meta["tensor_meta"].shape) == convolution(1, 1, 1).weight.dim():
            traced.set_submodule(node.target, _depthwise(norm, convolution))


def _entry_layers(traced: fx.GraphModule, example: tuple[Tensor, ...]) -> None:
    """Give pixels that not only layers read (a residual connection from the input) a layer to fold their step into."""
    for node, tensor in zip(traced.graph.find_nodes(op="placeholder"), example, strict=True):
        readers = moved_from(traced, node).readers
        if all(reader.op == "call_module" and isinstance(called(traced, reader), WEIGHTED) for reader in readers):
            continue
        if tensor.dim() - 3 not in range(len(CONVOLUTIONS)):
            raise InputError(f"input {node.name!r} of shape {tuple(tensor.shape)} is read by {readers[0]}: leave input_scale None")
        channels = tensor.shape[1]
        layer = CONVOLUTIONS[tensor.dim() - 3](channels, channels, 1, groups=channels, bias=False).requires_grad_(False)
        layer.weight.fill_(1.0)
        target = f"{node.name}_pixels"
        traced.add_submodule(target, layer)
        with traced.graph.inserting_after(node):
            entry = traced.graph.call_module(target, (node,))
        node.replace_all_uses_with(entry, delete_user_cb=lambda user, entry=entry: user is not entry)


def _fused(traced: fx.GraphModule, before: fx.Node) -> bool:
    """Whether the batch normalization after ``before`` will be folded into it; torch cannot into groups of a transposed one."""
    if before.op != "call_module" or len(before.users) > 1:
        return False
    layer = called(traced, before)
    return isinstance(layer, WEIGHTED) and not (isinstance(layer, TRANSPOSED) and layer.groups > 1)


@torch.no_grad()
def _depthwise(norm: Any, convolution: Any) -> nn.Module:
    layer = convolution(norm.num_features, norm.num_features, 1, groups=norm.num_features)
    factor = torch.rsqrt(norm.running_var + norm.eps)
    factor = factor if norm.weight is None else norm.weight * factor
    layer.weight.copy_(factor.reshape(layer.weight.shape))
    layer.bias.copy_(-norm.running_mean * factor + (0 if norm.bias is None else norm.bias))
    return layer.eval()
