"""A float model -> a graph of forms with its quantizers placed: what post-training quantization and
QAT start from."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from qstrategies.errors import InputError
from qstrategies.guest import own_randomness
from qstrategies.quantization.capture import capture, left_names
from qstrategies.quantization.exact_forms import (
    drop_training_only,
    entry_layers,
    fold_norms,
    norms_to_layers,
)
from qstrategies.quantization.normalize import Normalized, normalize
from qstrategies.quantization.observers import ACTIVATION_OBSERVERS, WeightFakeQuantize
from qstrategies.quantization.place import Placement, place
from qstrategies.quantization.saturation import SaturatingObserver, relu6_to_saturation
from qstrategies.quantization.selfcheck import check_forms
from qstrategies.quantization.structure import Arguments, mapped
from qstrategies.records import QuantizationConfig


@dataclass(frozen=True, eq=False)
class Prepared:
    """A graph of forms whose quantizers have places and ranges to be found.

    Attributes:
        graph: the forms; its modules are copies of the user's.
        observers: what sees the tensors of each group of ``placement``; no observer for pixels.
        input_scale: the real value of one step of pixels; None if inputs are observed.
        arguments: how the user's model takes its inputs.
        outputs: what it returns, with numbers of ``graph``'s outputs in the place of tensors.
    """

    graph: fx.GraphModule
    placement: Placement
    observers: dict[int, nn.Module]
    config: QuantizationConfig
    input_scale: float | None
    arguments: Arguments
    outputs: Any

    @property
    def pixel_groups(self) -> set[int]:
        """The groups that pixels belong to, which need no observer."""
        if self.input_scale is None:
            return set()
        names = [node.name for node in self.graph.graph.find_nodes(op="placeholder")]
        return {self.placement.groups[name] for name in names if name in self.placement.groups}


@own_randomness()  # layers that are made draw their first weights
def prepare(
    model: nn.Module,
    config: QuantizationConfig,
    example: Any,
    *,
    input_scale: float | None = None,
    leave_in_float: Collection[str | type[nn.Module]] = (),
) -> Prepared:
    """Normalize a copy of ``model``, bring it into exact forms and place observers. ``model`` is
    not changed.

    Args:
        example: one batch as ``model`` takes it: a tensor, a tuple of its arguments, or a dict of
            them by name.
        input_scale: the real value of one step of the inputs where it is known (1 / 255 for pixels
            in [0, 1]); None to observe their range.
        leave_in_float: names or types of modules to leave unquantized.

    Raises:
        InputError: what cannot be captured, with the module and the remedy; an unknown name in
            ``leave_in_float``.
    """
    arguments = Arguments.of(model, example)
    normalized = normalized_copy(model, arguments, leave_in_float)
    return into_exact_forms(normalized, config, arguments, input_scale)


def into_exact_forms(
    normalized: Normalized,
    config: QuantizationConfig,
    arguments: Arguments,
    input_scale: float | None,
) -> Prepared:
    """``normalized``, which is changed, in exact forms, with observers where quantizers lie."""
    graph = normalized.module
    drop_training_only(graph)
    if input_scale is not None:
        entry_layers(graph)
    norms_to_layers(graph)
    saturating = relu6_to_saturation(graph) if config.exact and not config.reduce_range else set()
    fold_norms(graph)
    placement = place(graph)
    prepared = Prepared(graph, placement, {}, config, input_scale, arguments, numbered(normalized))
    cut = {placement.groups[name] for name in saturating}
    observers: dict[int, nn.Module] = {}
    for group in placement.members:
        if group not in prepared.pixel_groups:
            observer = activation_observer(config)
            observers[group] = SaturatingObserver(observer) if group in cut else observer
    return replace(prepared, observers=observers)


def normalized_copy(
    model: nn.Module, arguments: Arguments, leave_in_float: Collection[str | type[nn.Module]] = ()
) -> Normalized:
    """The graph of forms of a float32 copy of ``model`` in evaluation mode; it computes what that
    copy computes.

    Raises:
        InputError: what cannot be captured.
        SelfCheckError: a graph that gives something else than the model.
    """
    copied = _float_copy(model)
    captured = capture(copied, arguments, left_names(copied, leave_in_float))
    example = [each.float() if each.is_floating_point() else each for each in arguments.tensors]
    normalized = normalize(captured, example)
    check_forms(copied, normalized.module, arguments, normalized.inputs)
    return normalized


def _float_copy(model: nn.Module) -> nn.Module:
    try:
        copied = copy.deepcopy(model)
    except Exception as error:
        raise InputError(
            f"{type(model).__name__} cannot be copied ({error}): quantize it under torch.no_grad"
        ) from None
    is_leaf = type(copied).__module__.startswith("torch.nn.modules") and not isinstance(
        copied, nn.Sequential
    )
    root = nn.Sequential(copied) if is_leaf else copied
    return root.cpu().float().eval()


def numbered(normalized: Normalized) -> Any:
    """What the model returns, with the places of the graph's outputs for the tensors."""
    numbers = iter(range(len(normalized.module.graph.output_node().args[0])))  # type: ignore[arg-type]
    return mapped(normalized.outputs, lambda _, value: None if value is None else next(numbers))


def activation_observer(config: QuantizationConfig) -> nn.Module:
    """A fresh observer of the kind and grid of ``config``."""
    quant_max = 127 if config.reduce_range else 255
    observer: Any = ACTIVATION_OBSERVERS[config.observer or "min_max", config.exact]
    made: nn.Module = observer(
        dtype=torch.quint8, qscheme=torch.per_tensor_affine, quant_min=0, quant_max=quant_max
    )
    return made


def weight_quantizer(config: QuantizationConfig) -> WeightFakeQuantize:
    """The quantizer of weights of ``config``."""
    return WeightFakeQuantize(
        config.weight_bits, per_channel=config.per_channel, exact=config.exact, levels=256
    )
