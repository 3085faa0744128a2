"""Is the quantized model the user's? Comparisons on a few examples, and the first place where one
fails.

* The normalized graph must compute what the user's own model computes, in evaluation mode, up to
  float rounding; so must that of exact forms.
* Every node of the integer graph must compute what the float form it was made from computes from
  the same inputs, with the rounded weights: up to half a step of its output. So an error cannot
  hide behind the noise of quantization, which on deep networks is as large as the signal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from qstrategies.errors import REPORT, InputError, SelfCheckError, first_line
from qstrategies.operators.base import Node
from qstrategies.operators.layer import Layer
from qstrategies.quantization.exact_forms import module_at
from qstrategies.quantization.executables import Reference
from qstrategies.quantization.in_float import InFloat
from qstrategies.quantization.integer_graph import IntegerGraph
from qstrategies.quantization.interface import InputSpec
from qstrategies.quantization.observe import same
from qstrategies.quantization.proxies import containers
from qstrategies.quantization.quantizers import WeightQuantizer
from qstrategies.quantization.recipe import CHOOSE_INTEGERS, overrides
from qstrategies.quantization.saturation import FloatNetwork
from qstrategies.quantization.structure import Arguments, leaves

if TYPE_CHECKING:
    from qstrategies.quantization.prepare import Prepared

FLOAT_ROUNDING = 1e-3
"""Of the output's root mean square: float32 through a hundred layers stays below 1e-4, a lost
operator does not."""
SHAKEN = 2.0**-22
"""Of every value, about two roundings of float32: what that moves outputs by, as where large values
cancel, is no other function."""
SHAKES = 8
"""So many times as far may outputs lie: a node of one graph is several of another."""
SLACK = 1e-3
"""Of a step, beside the half that rounding may move: real inputs lie on the grid, so that float32
is nearly exact."""
EXAMPLES = 8
UNSEEN = (
    "Autocast, hooks on the whole model and what lies outside of its modules are not seen: take "
    "them out of forward, or leave the module with them in float"
)


@torch.no_grad()
def check_forms(
    user: nn.Module, graph: fx.GraphModule, arguments: Arguments, inputs: Sequence[Tensor]
) -> None:
    """Raise ``SelfCheckError`` unless ``graph`` gives what ``user``, in evaluation mode, gives for
    ``inputs``."""

    def called() -> list[Tensor]:
        args, kwargs = arguments.filled([tensor.clone() for tensor in inputs])
        with InFloat():
            found = leaves(user(*args, **kwargs))
        return [each for _, each in found if isinstance(each, Tensor)]

    before = _state(user)
    expected = called()
    if _state(user) != before and not same(expected, called()):
        raise InputError(
            f"{type(user).__name__} gives other outputs when it is called again, in evaluation "
            "mode: no file keeps a state or draws random numbers. Take that out of forward"
        )
    hint = f"something in the forward of {type(user).__name__} was not captured"
    check_outputs(graph, inputs, expected, hint, UNSEEN)


def _state(module: nn.Module) -> list[Any]:
    """What tells that a call has changed a buffer, set an attribute or drawn random numbers."""
    found: list[Any] = torch.get_rng_state().tolist()
    for each in module.modules():
        found += [
            (id(buffer), buffer._version) for buffer in each._buffers.values() if buffer is not None
        ]
        found += [id(value) for value in vars(each).values() if isinstance(value, Tensor)]
        found += [len(value) for value in containers(each)]
    return found


@torch.no_grad()
def check_rewritten(
    graph: fx.GraphModule, sample: tuple[Sequence[Tensor], Sequence[Tensor]]
) -> None:
    """Raise ``SelfCheckError`` unless ``graph`` still computes the user's model."""
    inputs, expected = sample
    check_outputs(graph, inputs, expected, "bringing the model into exact forms changed it")


@torch.no_grad()
def check_outputs(
    graph: fx.GraphModule,
    inputs: Sequence[Tensor],
    expected: Sequence[Tensor],
    hint: str,
    remedy: str = REPORT,
) -> None:
    """Raise ``SelfCheckError``, with ``hint`` and ``remedy``, unless ``graph`` gives ``expected``
    for ``inputs``, up to float rounding."""
    try:
        found = FloatNetwork(graph).run(*(tensor.clone() for tensor in inputs))
    except Exception as error:  # torch raises many types where shapes do not fit
        reason = first_line(error)
        raise SelfCheckError(f"what was captured fails on the example ({reason})") from None
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        if ours.shape != theirs.shape:
            raise SelfCheckError(
                f"output {number} has shape {tuple(ours.shape)} instead of {tuple(theirs.shape)}"
            )
        away, size = _apart(ours, theirs), _apart(theirs, torch.zeros(()))
        if away <= FLOAT_ROUNDING * size or not math.isfinite(size):
            continue  # weights and values that are not finite are named where they are read
        shaken = _Shaken(graph).run(*(tensor.clone() for tensor in inputs))[number]
        if not away <= SHAKES * _apart(shaken, ours):
            away_by = away / size if size else 1.0
            message = f"output {number} is {away_by:.1%} away from the model's: {hint}"
            raise SelfCheckError(message, remedy)


def _apart(ours: Tensor, theirs: Tensor) -> float:
    """Root mean square of the difference."""
    return float((ours.double() - theirs.double()).square().mean().sqrt())


class _Shaken(FloatNetwork):
    """Every value is moved by ``SHAKEN`` of itself, up or down."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.generator = torch.Generator().manual_seed(0)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if not (isinstance(value, Tensor) and value.is_floating_point()):
            return value
        signs = torch.randint(0, 2, value.shape, generator=self.generator) * 2 - 1
        return value * (1 + SHAKEN * signs)


@torch.no_grad()
def check_nodes(prepared: Prepared, graph: IntegerGraph, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Raise ``SelfCheckError``, naming the node, unless every node rounds what its float form
    gives.

    ``inputs``: as the float model takes them. Returns what the integers give, in real numbers.
    """
    specs = [InputSpec.of(spec, prepared.input_scale) for spec in graph.inputs]
    entered = [spec.integers(tensor) for spec, tensor in zip(specs, inputs, strict=True)]
    watched = _Watched(graph, specs)
    watched(*entered)
    forms = {node.name: node for node in prepared.graph.graph.nodes}
    for index, node in enumerate(graph.nodes):
        values = [watched.values[spec.name] for spec in node.inputs]
        constants = watched.constants(index)
        expected = _form(prepared, forms[node.output.name], node, values, constants)
        _compare(node, watched.values[node.output.name], expected)
        if isinstance(node, Layer):
            _check_weight(prepared, node, constants[0])
    return [watched.values[spec.name] for spec in graph.outputs]


class _Watched(Reference):
    """The reference, which keeps every tensor."""

    def __init__(self, graph: IntegerGraph, inputs: Sequence[InputSpec]) -> None:
        super().__init__(graph, inputs, 0)
        self.values: dict[str, Tensor] = {}

    def entered(self, spec: Any, tensor: Tensor) -> Tensor:
        self.values[spec.name] = super().entered(spec, tensor)
        return self.values[spec.name]

    def step(self, index: int, node: Node, arguments: list[Tensor]) -> Tensor:
        self.values[node.output.name] = super().step(index, node, arguments)
        return self.values[node.output.name]


def _form(
    prepared: Prepared, end: fx.Node, node: Node, values: list[Tensor], constants: list[Tensor]
) -> Tensor:
    """What the float form of ``node`` gives for ``values``, with the rounded weights."""
    module: Any = prepared.graph.get_submodule(node.name)
    if isinstance(node, Layer):
        # a bias that a recipe has corrected is there where the module has none, too
        given = dict(zip(("weight", "bias"), constants, strict=True))
        y = torch.func.functional_call(module, given, tuple(values))
    else:
        y = module(*values)
    joined = str(end.target) != node.name
    return module_at(prepared.graph, end)(y) if joined else y


def _compare(node: Node, found: Tensor, expected: Tensor) -> None:
    grid = node.output.quantizer
    if found.shape != expected.shape:
        raise SelfCheckError(
            f"{node.name} gives the shape {tuple(found.shape)} instead of {tuple(expected.shape)}"
        )
    if grid is None:
        return
    steps = (found.double() - expected.double().clamp(*grid.ends)).abs() / grid.scale
    if steps.numel() and not steps.max() <= 0.5 + SLACK * max(
        1.0, _magnitude(expected, grid.scale)
    ):
        raise SelfCheckError(
            f"{node.name} ({type(node).__name__}) is up to {steps.max():.3g} steps away "
            "from its float form"
        )


def _magnitude(expected: Tensor, scale: float) -> float:
    """How many thousands of steps the results are large: float32 rounds them relative to that."""
    return float(expected.abs().max()) / scale / 1e3


def _check_weight(prepared: Prepared, layer: Layer, rounded: Tensor) -> None:
    """Every rounded weight is one of the two levels beside the float one, or at the end of the
    range.

    Recipes that choose integers by what a layer gives, and quantizers that round in their own way,
    may move them further.
    """
    quantizer = prepared.weights[layer.name]
    own_rounding = type(quantizer).integers is not WeightQuantizer.integers
    if own_rounding or any(overrides(prepared.recipe, hook) for hook in CHOOSE_INTEGERS):
        return
    module: Any = prepared.graph.get_submodule(layer.name)
    shape = [1] * rounded.dim()
    shape[layer.weight_axis] = -1
    step = torch.from_numpy(layer.weight_scale * layer.rounded_layer.factor).reshape(shape)
    wanted = module.weight.detach() * quantizer.unit / step
    steps = (rounded / step - wanted.clamp(quantizer.quant_min, quantizer.quant_max)).abs()
    if not steps.max() <= quantizer.level_set.spacing + SLACK:
        raise SelfCheckError(
            f"a weight of {layer.name} is {steps.max():.3g} steps away from the float one"
        )
