"""A float model -> a graph of forms with its quantizers placed: what post-training quantization and
QAT start from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from qstrategies.errors import InputError
from qstrategies.guest import own_randomness
from qstrategies.operators.base import Quantizer
from qstrategies.operators.island import Float
from qstrategies.operators.transposed import is_transposed
from qstrategies.quantization.activation_quantizers import ActivationQuantizer
from qstrategies.quantization.exact_forms import (
    drop_round_trips,
    drop_training_only,
    entry_layers,
    fold_norms,
    folded_norm,
    is_layer,
    layers_before_norms,
    let_readers_broadcast,
    module_at,
    norm_factor,
    output_rows,
    relus_to_layers,
)
from qstrategies.quantization.fixed_point import averages_to_layers, give_biases
from qstrategies.quantization.float_graph import normalized_copy, numbered
from qstrategies.quantization.observers import ACTIVATION_OBSERVERS
from qstrategies.quantization.place import NOWHERE, Placement, place
from qstrategies.quantization.quantizers import QuantizerSite, WeightQuantizer, check_finite
from qstrategies.quantization.ranges import clamped
from qstrategies.quantization.recipe import NOTHING, Recipe, overrides
from qstrategies.quantization.saturation import (
    SaturatingObserver,
    relu6_to_saturation,
    saturating_nodes,
    saturation_top,
)
from qstrategies.quantization.selfcheck import check_rewritten
from qstrategies.quantization.structure import Arguments, device_of, leaves
from qstrategies.records import QuantizationConfig

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Prepared:
    """A graph of forms whose quantizers have places and ranges to be found.

    Attributes:
        graph: the forms; its modules are copies of the user's.
        input_scale: the real value of one step of pixels; None if inputs are observed.
        arguments: how the user's model takes its inputs.
        outputs: what it returns, with numbers of ``graph``'s outputs in the place of tensors.
        sample: two examples, and the tensors that the user's model gives for them.
        activations: what finds the range of each group of ``placement``; none for pixels.
        weights: the quantizer of each layer, by its name in ``graph``.
        bits: of each layer's weight, by the same names; those of ``config`` where there are none.
        trained: whether with fake quantizers: then weights are rounded to nearest, as these did.
        device: where the user's model lies, and is calibrated; all else is done on the CPU.
    """

    graph: fx.GraphModule
    config: QuantizationConfig
    recipe: Recipe
    input_scale: float | None
    arguments: Arguments
    outputs: Any
    sample: tuple[Sequence[Tensor], Sequence[Tensor]]
    placement: Placement = NOWHERE
    activations: dict[int, ActivationQuantizer] = field(default_factory=dict)
    weights: dict[str, WeightQuantizer] = field(default_factory=dict)
    bits: Mapping[str, int] = field(default_factory=dict)
    trained: bool = False
    device: torch.device = CPU

    @property
    def pixel_groups(self) -> set[int]:
        """The groups that pixels belong to, which need no observer."""
        if self.input_scale is None:
            return set()
        names = [node.name for node in self.graph.graph.find_nodes(op="placeholder")]
        return {self.placement.groups[name] for name in names if name in self.placement.groups}

    @property
    def end_groups(self) -> set[int]:
        """The groups of what the user gives, inputs and constants, and of what the network
        returns."""
        given = [node for node in self.graph.graph.nodes if not node.all_input_nodes]
        nodes = [*given, *self.graph.graph.output_node().all_input_nodes]
        groups = self.placement.groups
        return {groups[node.name] for node in nodes if node.name in groups}

    def activation_bits(self, group: int) -> int:
        """How many bits the tensors of ``group`` have."""
        return 8 if group in self.end_groups else self.config.activation_bits

    def saturates(self, group: int) -> bool:
        """Whether the quantizer of ``group`` stands for a ReLU6."""
        known = self.activations.get(group)
        return known is not None and isinstance(known.observer, SaturatingObserver)


@own_randomness()  # layers that are made draw their first weights
def prepare(
    model: nn.Module,
    config: QuantizationConfig,
    example: Any,
    *,
    recipe: Recipe = NOTHING,
    input_scale: float | None = None,
    leave_in_float: Collection[str | type[nn.Module]] = (),
) -> Prepared:
    """Normalize a copy of ``model``, bring it into exact forms and place quantizers. ``model`` is
    not changed.

    Args:
        example: one batch as ``model`` takes it: a tensor, a tuple of its arguments, or a dict of
            them by name.
        recipe: what a strategy decides.
        input_scale: the real value of one step of the inputs where it is known (1 / 255 for pixels
            in [0, 1]); None to observe their range.
        leave_in_float: names or types of modules to leave unquantized.

    Raises:
        InputError: what cannot be captured, with the module and the remedy; an unknown name in
            ``leave_in_float``.
    """
    forms = forms_of(model, config, example, recipe, input_scale, leave_in_float)
    saturating = fold(forms)
    recipe.rewrite(forms.graph)
    check_rewritten(forms.graph, forms.sample)
    return placed(forms, saturating)


def fold(forms: Prepared) -> set[str]:
    """Bring ``forms`` into exact ones, batch normalization folded. In place; the nodes whose values
    are to be cut at ``saturation_top``."""
    graph, config = forms.graph, forms.config
    drop_training_only(graph)
    relus_to_layers(graph)
    if forms.input_scale is not None:
        entry_layers(graph)
    layers_before_norms(graph)
    saturates = config.exact and not config.reduce_range
    top = saturation_top(config.activation_bits)
    saturating = relu6_to_saturation(graph, top) if saturates else set()
    fold_norms(graph)
    return saturating


def forms_of(  # noqa: PLR0913 - one argument per setting
    model: nn.Module,
    config: QuantizationConfig,
    example: Any,
    recipe: Recipe,
    input_scale: float | None,
    leave_in_float: Collection[str | type[nn.Module]] = (),
    *,
    trains: bool = False,
) -> Prepared:
    """``model`` as a graph of forms, quantizers nowhere; what acts only in training is among them
    if it ``trains``. Other arguments and errors as in ``prepare``."""
    device, arguments = device_of(model), Arguments.of(model, example)
    normalized = normalized_copy(model, arguments, leave_in_float, trains=trains)
    outputs = numbered(normalized)
    expected = [each for _, each in leaves(normalized.expected) if isinstance(each, Tensor)]
    sample = (normalized.inputs, expected)
    drop_round_trips(normalized.module)
    let_readers_broadcast(normalized.module)
    if config.fixed_point:
        averages_to_layers(normalized.module)
    return Prepared(
        graph=normalized.module,
        config=config,
        recipe=recipe,
        input_scale=input_scale,
        arguments=arguments,
        outputs=outputs,
        sample=sample,
        device=device,
    )


def placed(forms: Prepared, saturating: Collection[str] = (), *, trains: bool = False) -> Prepared:
    """``forms`` with quantizers where their operators put them.

    Args:
        saturating: nodes whose values are cut at ``saturation_top``.
        trains: whether quantizers are fake ones, which see each range once.
    """
    usual = "histogram" if forms.config.exact and not trains else "min_max"
    graph = forms.graph
    if forms.config.fixed_point:
        give_biases(graph)
    found = replace(forms, placement=place(graph), activations={}, weights={})
    weights = {str(node.target): weight_quantizer(found, node) for node in quantized_layers(found)}
    in_float = [name for name, quantizer in weights.items() if quantizer is None]
    for name in in_float:
        layer = graph.get_submodule(name)
        graph.set_submodule(name, Float(layer, name, "the strategy leaves it in float"))
    if in_float:
        found = replace(found, placement=place(graph))
    found.weights.update({name: each for name, each in weights.items() if each is not None})
    cut = {found.placement.groups[name] for name in saturating}
    for group, members in found.placement.members.items():
        if group not in found.pixel_groups:
            observer = activation_observer(forms.config, usual, found.activation_bits(group))
            cutting = SaturatingObserver(observer) if group in cut else observer
            found.activations[group] = _activation(found, members, cutting)
    return found


def allotted(
    prepared: Prepared, batches: Sequence[tuple[Tensor, ...]], *, trains: bool = False
) -> Prepared:
    """``prepared`` with the bits that its recipe gives each layer, if it does: placed again.

    Raises:
        InputError: no batch to measure on.
    """
    if not overrides(prepared.recipe, "weight_bits"):
        return prepared
    if not batches:
        raise InputError("bits per layer are measured on calibration batches: give some")
    bits = prepared.recipe.weight_bits(prepared, batches)
    return placed(replace(prepared, bits=bits), saturating_nodes(prepared.graph), trains=trains)


def quantized_layers(forms: Prepared) -> list[fx.Node]:
    """The nodes of the layers that are quantized, in the order of the graph."""
    islands = forms.placement.islands
    nodes = forms.graph.graph.nodes
    return [node for node in nodes if is_layer(forms.graph, node) and node.name not in islands]


@torch.no_grad()
def weight_quantizer(
    forms: Prepared, node: fx.Node, bits: int | None = None
) -> WeightQuantizer | None:
    """What the recipe gives the layer at ``node``, with ``bits`` or those of ``forms``."""
    layer, name = module_at(forms.graph, node), str(node.target)
    reads_pixels = forms.placement.groups[node.all_input_nodes[0].name] in forms.pixel_groups
    default = WeightQuantizer(
        forms.config.stored_bits(bits or forms.bits.get(name, forms.config.weight_bits)),
        per_channel=forms.config.per_channel and not is_transposed(layer),
        exact=forms.config.exact,
        levels=forms.config.levels,
        pairs=forms.config.saturation == "any_kernel",
        fixed_point=forms.config.fixed_point,
        unit=forms.input_scale or 1.0 if reads_pixels else 1.0,
    )
    norm = folded_norm(forms.graph, node)
    weight = layer.weight if norm is None else layer.weight * norm_factor(layer, norm)
    rows = output_rows(layer, weight) * default.unit
    check_finite(rows, f"the weights of {name!r}")
    chosen = forms.recipe.weight_quantizer(QuantizerSite(name, "weight", layer, rows), default)
    if chosen is not None:
        chosen.name = name
    return chosen


def _activation(forms: Prepared, members: Sequence[str], observer: Any) -> ActivationQuantizer:
    name = members[0]
    placeholders = {node.name for node in forms.graph.graph.find_nodes(op="placeholder")}
    kind: Literal["input", "activation"] = "input" if name in placeholders else "activation"
    site = QuantizerSite(name, kind, members=tuple(members))
    chosen = forms.recipe.activation_quantizer(site, ActivationQuantizer(observer))
    chosen.name = name
    chosen.interval = clamped(forms.graph, members) if forms.config.exact else None
    if forms.config.reduce_range:
        chosen.saturates_at = Quantizer.quant_max
    return chosen


def activation_observer(
    config: QuantizationConfig, usual: str = "min_max", bits: int = 8
) -> nn.Module:
    """A fresh observer of the kind (``usual`` if it names none) of ``config``, for integers of
    ``bits``."""
    quant_max = 127 if config.reduce_range else 2**bits - 1
    observer: Any = ACTIVATION_OBSERVERS[config.observer or usual, config.exact]
    made: nn.Module = observer(
        dtype=torch.quint8, qscheme=torch.per_tensor_affine, quant_min=0, quant_max=quant_max
    )
    return made
