"""A float model with fake quantizers, to be trained: the same graph, places and quantizers as for
post-training quantization.

What is trained is what is exported: the fake quantizers are the objects that decide, and batch
normalization is folded into the weights before they are rounded (Jacob et al., arXiv 1712.05877,
section 3.2).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from qstrategies.guest import own_randomness
from qstrategies.operators.convolution import is_transposed
from qstrategies.quantization.exact_forms import (
    NORM_KINDS,
    drop_training_only,
    entry_layers,
    fold_norms,
    folds,
    is_layer,
    module_at,
    norms_to_layers,
)
from qstrategies.quantization.observers import ActivationFakeQuantize, WeightFakeQuantize
from qstrategies.quantization.place import place
from qstrategies.quantization.prepare import (
    Prepared,
    activation_observer,
    normalized_copy,
    numbered,
    weight_quantizer,
)
from qstrategies.quantization.rounding import output_rows
from qstrategies.quantization.scales import fake_quantize
from qstrategies.quantization.structure import Arguments
from qstrategies.records import QuantizationConfig


class FakeQuantizedLayer(nn.Module):
    """``layer`` with the weight that is exported, up to the batch normalization behind it.

    With ``f = gamma / sigma`` of ``norm`` per output channel it computes ``layer(x, FQ(f w) / f)``.
    ``f`` is detached: ``FQ(f w) / f`` with a scale proportional to max |f w| does not depend on it.
    """

    def __init__(self, layer: Any, norm: Any | None, quantizer: WeightFakeQuantize) -> None:
        super().__init__()
        self.layer, self.norm, self.quantizer = layer, norm, quantizer

    @property
    def weight(self) -> Tensor:
        """Fake-quantized as the folded layer is, then unfolded."""
        weight: Tensor = self.layer.weight
        if self.norm is None:
            return self._quantized(weight)
        norm = self.norm
        factor = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach()
        shape = [1] * weight.dim()
        shape[1 if is_transposed(self.layer) else 0] = -1
        factor = factor.reshape(shape)
        return self._quantized(weight * factor) / factor

    def _quantized(self, weight: Tensor) -> Tensor:
        if not is_transposed(self.layer):
            quantized: Tensor = self.quantizer(weight)
            return quantized
        rows = output_rows(self.layer, weight)
        scale = self.quantizer.scale(rows, per_channel=False)[0]
        return fake_quantize(weight, scale, 0, self.quantizer.quant_min, self.quantizer.quant_max)

    @property
    def bias(self) -> Tensor | None:
        """Of the layer."""
        bias: Tensor | None = self.layer.bias
        return bias

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        result: Tensor = self.layer._conv_forward(x, weight, bias)
        return result

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        if isinstance(layer, nn.Linear):
            return functional.linear(x, self.weight, layer.bias)
        if not is_transposed(layer):
            return self._conv_forward(x, self.weight, layer.bias)
        function = getattr(functional, f"conv_transpose{len(layer.kernel_size)}d")
        settings = (layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
        result: Tensor = function(x, self.weight, layer.bias, *settings)
        return result


class FakeQuantizedModel(nn.Module):
    """The forms of a float model under their own names, and ``activation_quantizers`` by group.

    ``view`` is the graph that is trained; it shares every module with this one.
    """

    def __init__(self, forms: Prepared) -> None:
        super().__init__()
        for name, child in forms.graph.named_children():
            self.add_module(name, child)
        self.forms = forms
        quantizers = {str(group): quantizer for group, quantizer in forms.observers.items()}
        self.activation_quantizers = nn.ModuleDict(quantizers)
        self._view = (_training_view(forms),)  # in a tuple: its modules are registered here already

    @property
    def view(self) -> fx.GraphModule:
        """The graph with the fake quantizers in it."""
        return self._view[0]

    def forward(self, *inputs: Tensor) -> Any:
        return self.view(*inputs)


@own_randomness()
def prepare_qat(
    model: nn.Module, config: QuantizationConfig, example: Any, *, input_scale: float | None = None
) -> FakeQuantizedModel:
    """A copy of ``model`` with fake quantizers. ``model`` is not changed; arguments and errors as
    in ``prepare``."""
    arguments = Arguments.of(model, example)
    normalized = normalized_copy(model, arguments)
    graph = normalized.module
    if input_scale is not None:
        entry_layers(graph)
    graph.recompile()
    placement = place(graph)
    forms = Prepared(graph, placement, {}, config, input_scale, arguments, numbered(normalized))
    for group in placement.members:
        if group not in forms.pixel_groups:
            forms.observers[group] = ActivationFakeQuantize(activation_observer(config))
    return FakeQuantizedModel(forms)


@own_randomness()
def finished(model: FakeQuantizedModel) -> Prepared:
    """The trained ``model`` as calibrated forms: batch normalization folded, ranges as trained.
    ``model`` is not changed."""
    trained = copy.deepcopy(model).cpu().eval()
    forms = trained.forms
    graph = forms.graph
    drop_training_only(graph)
    norms_to_layers(graph)
    fold_norms(graph)
    placement = place(graph)
    before = forms.placement.groups
    observers: dict[int, nn.Module] = {}
    result = Prepared(
        graph, placement, observers, forms.config, forms.input_scale, forms.arguments, forms.outputs
    )
    for group, members in placement.members.items():
        if group not in result.pixel_groups:
            known = next(name for name in members if name in before)
            observers[group] = forms.observers[before[known]]
    return result


def _training_view(forms: Prepared) -> fx.GraphModule:
    """A graph over the modules of ``forms`` with fake quantizers for weights and activations."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(forms.graph.graph, copies))
    view = fx.GraphModule(forms.graph, graph)
    if len(forms.graph.graph.output_node().args[0]) == 1:  # type: ignore[arg-type]
        end = view.graph.output_node()
        end.args = (end.args[0][0],)  # type: ignore[index]
    for node, copied in copies.items():
        if is_layer(forms.graph, node):
            _quantize_weight(forms, view, node, copied)
    for node, copied in copies.items():
        quantizer = forms.observers.get(forms.placement.groups.get(node.name, -1))
        if quantizer is not None:
            _append(view, copied, f"{node.name}_fake_quantize", quantizer)
    view.graph.lint()
    view.recompile()
    return view


def _quantize_weight(forms: Prepared, view: fx.GraphModule, node: fx.Node, copied: fx.Node) -> None:
    if node.name in forms.placement.islands:
        return
    layer, reader = module_at(forms.graph, node), next(iter(node.users), None)
    norm = module_at(forms.graph, reader) if reader is not None and len(node.users) == 1 else None
    if not isinstance(norm, NORM_KINDS) or not folds(forms.graph, reader):  # type: ignore[arg-type]
        norm = None
    quantizer = weight_quantizer(forms.config)
    source: Any = node.args[0]
    if forms.placement.groups[source.name] in forms.pixel_groups:
        quantizer.unit = forms.input_scale or 1.0
    copied.target = f"{node.name}_with_fake_quantized_weight"
    view.add_submodule(copied.target, FakeQuantizedLayer(layer, norm, quantizer))


def _append(view: fx.GraphModule, node: fx.Node, name: str, module: nn.Module) -> None:
    view.add_submodule(name, module)
    with view.graph.inserting_after(node):
        appended = view.graph.call_module(name, (node,))
    node.replace_all_uses_with(appended, delete_user_cb=lambda user: user is not appended)
