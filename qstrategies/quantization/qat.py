"""A float model with fake quantizers, to be trained: the same graph, places and quantizers as for
post-training quantization.

What is trained is what is exported: the fake quantizers are the objects that decide, and batch
normalization is folded into the weights before they are rounded (Jacob et al., arXiv 1712.05877,
section 3.2).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, fx, nn

from qstrategies.errors import InputError
from qstrategies.guest import own_randomness
from qstrategies.operators.dropout import SCATTERING
from qstrategies.operators.table import Elementwise
from qstrategies.quantization.calibrate import (
    Batches,
    as_batches,
    calibrate,
    calibration_batches,
    example_inputs,
)
from qstrategies.quantization.decide import decide
from qstrategies.quantization.exact_forms import (
    BROADCASTING,
    drop_training_only,
    entry_layers,
    fold_norms,
    folded_norm,
    layers_before_norms,
    module_at,
    relus_to_layers,
)
from qstrategies.quantization.fake_quantized import (
    ExportedLayer,
    FakeQuantizedLayer,
    InEvaluation,
    RaisedSteps,
    TableInTraining,
    ends_of,
    quantizer_of,
)
from qstrategies.quantization.integer_graph import IntegerGraph
from qstrategies.quantization.prepare import Prepared, allotted, fold, forms_of, placed
from qstrategies.quantization.recipe import (
    NOTHING,
    Recipe,
    overrides,
    sees_batches,
    sees_batches_first,
)
from qstrategies.quantization.selfcheck import check_rewritten
from qstrategies.quantization.structure import device_of, mapped
from qstrategies.quantization.token_ids import check_ids
from qstrategies.quantization.training_check import keep_frozen, warn_of_training
from qstrategies.records import QuantizationConfig


class FakeQuantizedModel(nn.Module):
    """The forms of a float model under their own names, and its quantizers.

    It takes and gives what the user's model does; inputs may lie on any device. ``view`` is the
    graph that is trained; it shares every module with this one. In evaluation mode no quantizer
    observes, and it computes what is exported, to the bit. It stays in float32.

    Raises ``InputError`` for a cast of it, for token ids that an embedding has no row for, and in
    training for inputs of no examples, and for whole numbers in the place of real values and the
    other way round.
    """

    def __init__(self, forms: Prepared) -> None:
        super().__init__()
        for name, child in forms.graph.named_children():
            self.add_module(name, child)
        self.forms = forms
        self.activation_quantizers = nn.ModuleDict(
            {str(group): quantizer for group, quantizer in forms.activations.items()}
        )
        self.weight_quantizers = nn.ModuleDict(
            {registered(name): quantizer for name, quantizer in forms.weights.items()}
        )
        view = _training_view(forms)
        exported = _exported_view(view)
        self._views = (view, exported)  # in a tuple: all modules are registered already
        if forms.config.exact:
            raised = RaisedSteps(forms)
            for each in self._views if _meet(forms.graph) else (exported,):
                _begin(each, "raised_steps", raised)

    @property
    def view(self) -> fx.GraphModule:
        """The graph with the fake quantizers in it, from tensors to its output or outputs."""
        return self._views[0]

    @property
    def layers(self) -> list[FakeQuantizedLayer]:
        """Those whose weights are rounded, in the order of the graph."""
        return [each for each in self.view.modules() if isinstance(each, FakeQuantizedLayer)]

    def train(self, mode: bool = True) -> Self:
        """As usual, but what the user has frozen stays in evaluation mode."""
        super().train(mode)
        keep_frozen(self)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        dtype = fn(torch.empty(0)).dtype  # every cast and move of a module comes through here
        if dtype != torch.float32:
            raise InputError(
                f"fake quantizers are trained in float32, not {dtype}: leave trainee.model as it "
                "is, and call it under torch.autocast for mixed precision"
            )
        return super()._apply(fn, recurse)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        view, device = self._views[0 if self.training else 1], device_of(self)
        inputs = self.forms.arguments.tensors_in(args, kwargs)
        if self.training:
            self._check(inputs)
        check_ids(self.forms.graph, inputs)
        return self.structured(view(*(each.to(device) for each in inputs)))

    def _check(self, inputs: Sequence[Tensor]) -> None:
        for given, known in zip(inputs, self.forms.sample[0], strict=True):
            if not given.numel():
                raise InputError("a training batch has no examples: leave it out")
            if given.is_floating_point() != known.is_floating_point():
                raise InputError(
                    f"an input of trainee.model is {given.dtype}, that of the example was "
                    f"{known.dtype}: convert it, as there"
                )

    def structured(self, found: Any) -> Any:
        """What a view gives (a tensor, or all of them in their order) as the user's model gives
        it."""
        results = found if isinstance(found, list | tuple) else [found]
        outputs = self.forms.outputs
        return mapped(outputs, lambda _, place: None if place is None else results[place])


def registered(name: str) -> str:
    """The dotted ``name`` as a module may have it for an attribute; no two are the same."""
    return name.replace(".", "/")


@own_randomness()
def prepare_qat(  # noqa: PLR0913 - one keyword per setting
    model: nn.Module,
    config: QuantizationConfig,
    example: Any,
    *,
    recipe: Recipe = NOTHING,
    input_scale: float | None = None,
    leave_in_float: Collection[str | type[nn.Module]] = (),
    calibration: Batches = (),
) -> FakeQuantizedModel:
    """A copy of ``model`` with fake quantizers. ``model`` is not changed; arguments and errors as
    in ``prepare``.

    Args:
        calibration: batches as ``model`` takes them, for recipes that look at them before training.
    """
    forms = forms_of(model, config, example, recipe, input_scale, leave_in_float, trains=True)
    relus_to_layers(forms.graph)
    if input_scale is not None:
        entry_layers(forms.graph)
    layers_before_norms(forms.graph)
    _tie(forms.graph)
    forms.graph.recompile()
    warn_of_training(model, forms)
    recipe.rewrite(forms.graph)
    check_rewritten(forms.graph, forms.sample)
    found = placed(forms, trains=True)
    given = as_batches(calibration) if sees_batches_first(recipe) else []
    batches = calibration_batches(found, given)
    trained = FakeQuantizedModel(allotted(found, batches, trains=True))
    if overrides(recipe, "begin"):
        recipe.begin(trained, _start(trained.forms, batches))
    return trained


def _start(forms: Prepared, batches: Sequence[tuple[Tensor, ...]]) -> IntegerGraph:
    """What post-training quantization makes of ``forms``, whose bits are decided.

    Raises:
        InputError: no batch where its recipe looks at some.
    """
    if not batches and sees_batches(forms.recipe):
        raise InputError("the integers to begin with are chosen by calibration batches: give some")
    plain = replace(forms, graph=_sharing_nothing(forms.graph))
    found = placed(plain, fold(plain))
    inputs = batches or [example_inputs(found)]
    calibrate(found, inputs)
    found.recipe.refine(found, inputs)
    return decide(found, inputs)


def _tie(graph: fx.GraphModule) -> None:
    """Let parameters and statistics that are one in the user's model be one again."""
    known: dict[int, Tensor] = {}
    for module in graph.modules():
        for name, own in [*module._parameters.items(), *module._buffers.items()]:
            origin = getattr(own, "origin", None)
            if own is not None and origin is not None and origin.shape == own.shape:
                setattr(module, name, known.setdefault(id(origin), own))  # an LSTM keeps a list


def _sharing_nothing(graph: fx.GraphModule) -> fx.GraphModule:
    """A copy of ``graph`` where every module has parameters of its own, not to be trained."""
    copied = copy.deepcopy(graph)
    for module in copied.modules():
        for name, known in module._parameters.items():
            if known is not None:
                module._parameters[name] = nn.Parameter(known.detach().clone(), False)
    return copied


@own_randomness()
def finished(model: FakeQuantizedModel) -> Prepared:
    """The trained ``model`` as calibrated forms: batch normalization folded, quantizers as trained.
    ``model`` is not changed."""
    trained = copy.deepcopy(model).cpu().eval()
    forms = trained.forms
    drop_training_only(forms.graph)
    fold_norms(forms.graph)
    result = replace(placed(forms, trains=True), trained=True)
    before = forms.placement.groups
    for group in result.activations:
        members = result.placement.members[group]
        known = next(name for name in members if name in before)
        result.activations[group] = forms.activations[before[known]]
    result.weights.update(
        {name: known for name, known in forms.weights.items() if name in result.weights}
    )
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
        if node.op == "call_module" and str(node.target) in forms.weights:
            _quantize_weight(forms, view, node, copied)
        elif isinstance(module_at(forms.graph, node), Elementwise):
            copied.target = f"{node.name}_as_table"
            view.add_submodule(copied.target, TableInTraining(module_at(forms.graph, node)))
    scattered = _scattered(forms)
    for node, copied in copies.items():
        quantizer: nn.Module | None = quantizer_of(forms, node)
        if quantizer is not None:
            chosen = InEvaluation(quantizer) if node in scattered else quantizer
            _append(view, copied, f"{node.name}_fake_quantize", chosen)
    view.graph.lint()
    view.recompile()
    return view


def _scattered(forms: Prepared) -> set[fx.Node]:
    """The nodes whose values lie in the range of their quantizer in evaluation only: dropouts, and
    what reads them and shares it."""
    found: set[fx.Node] = set()
    for node in forms.graph.graph.nodes:
        group = forms.placement.groups.get(node.name)
        sources = (each for each in node.all_input_nodes if each in found)
        shares = any(forms.placement.groups.get(each.name) == group for each in sources)
        if shares or isinstance(module_at(forms.graph, node), SCATTERING):
            found.add(node)
    return found


def _exported_view(view: fx.GraphModule) -> fx.GraphModule:
    """``view`` with every norm folded into the layer before it."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(view.graph, {}))
    folded = fx.GraphModule(view, graph)
    for node in list(folded.graph.nodes):
        layer = module_at(folded, node)
        if not isinstance(layer, FakeQuantizedLayer):
            continue
        if layer.norm is not None:
            norm = next(iter(node.users))
            norm.replace_all_uses_with(node)
            folded.graph.erase_node(norm)
        node.target = f"{node.name}_exported"
        folded.add_submodule(node.target, ExportedLayer(layer))
    folded.graph.lint()
    folded.recompile()
    return folded


def _quantize_weight(forms: Prepared, view: fx.GraphModule, node: fx.Node, copied: fx.Node) -> None:
    layer, norm = module_at(forms.graph, node), folded_norm(forms.graph, node)
    made = FakeQuantizedLayer(layer, norm, forms.weights[str(node.target)], ends_of(forms, node))
    copied.target = f"{node.name}_with_fake_quantized_weight"
    view.add_submodule(copied.target, made)


def _meet(graph: fx.GraphModule) -> bool:
    """Whether ``graph`` has sums or products of two tensors."""
    return any(isinstance(module, BROADCASTING) for module in graph.modules())


def _begin(view: fx.GraphModule, name: str, module: nn.Module) -> None:
    """Let ``module`` be called before all else."""
    view.add_submodule(name, module)
    first = next(node for node in view.graph.nodes if node.op != "placeholder")
    with view.graph.inserting_before(first):
        view.graph.call_module(name)
    view.recompile()


def _append(view: fx.GraphModule, node: fx.Node, name: str, module: nn.Module) -> None:
    view.add_submodule(name, module)
    with view.graph.inserting_after(node):
        appended = view.graph.call_module(name, (node,))
    node.replace_all_uses_with(appended, delete_user_cb=lambda user: user is not appended)
