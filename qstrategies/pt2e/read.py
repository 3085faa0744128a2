"""A graph that PT2E converted -> the graph between its quantizers, and their ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, fx

from qstrategies.errors import InputError
from qstrategies.quantization.aten import OPERATOR, is_exported

Ends = tuple[float, float]
LOWERED = "give it as convert_pt2e gives it, before it is lowered"
REMEDIES = {
    "quantized_decomposed": "take a quantizer with one range per tensor and is_dynamic=False",
    "torchao": "take a quantizer with one range per tensor",
    "onednn": LOWERED,
    "quantized": LOWERED,
}
"""What is not read of activations, by the namespace of operators."""


@dataclass(frozen=True, eq=False)
class Converted:
    """What PT2E has made of a model.

    Attributes:
        model: without the quantizers of activations; weights are what they were rounded to.
        quantized: with them. Both take the inputs positionally, and any number of examples that
            their operators take.
        ends: the smallest and the largest value that quantizers let through, by the name of the
            node in ``model`` that they round.
        example: two examples of noise, in the range of each input.
        fixed_batch: the number of examples that the model was exported for; None for any.
    """

    model: fx.GraphModule
    quantized: fx.GraphModule
    ends: Mapping[str, Ends]
    example: tuple[Tensor, ...]
    fixed_batch: int | None


def read(converted: Any) -> Converted:
    """``converted`` as ``convert_pt2e`` gives it, or as exported from that.

    Raises:
        InputError: something else, or what has no fixed range per tensor: by name, with the remedy.
    """
    if isinstance(converted, torch.export.ExportedProgram):
        converted = converted.module()
    if not is_exported(converted):
        kind = type(converted).__name__
        raise InputError(f"{kind} is not what convert_pt2e gives: qs.quantize takes float models")
    found = _Quantizers(converted)
    if not found.ends:
        raise InputError(
            "no activation has a quantizer: convert with use_reference_representation=False; "
            "qs.quantize takes float models"
        )
    entries = converted.graph.find_nodes(op="placeholder")
    batch = entries[0].meta["val"].shape[0]
    return Converted(
        model=_copied(converted, found.sources),
        quantized=_copied(converted, {}),
        ends=found.ends,
        example=tuple(_noise(node, found.ends.get(node.name, (0.0, 1.0))) for node in entries),
        fixed_batch=batch if isinstance(batch, int) else None,
    )


class _Quantizers:
    """``sources``: what rounds and what gives back real values, and the node in whose place it
    stands. ``ends``: as in ``Converted``."""

    def __init__(self, converted: fx.GraphModule) -> None:
        self.sources: dict[fx.Node, fx.Node] = {}
        self.ends: dict[str, Ends] = {}
        self.integers: set[fx.Node] = set()
        varying: set[fx.Node] = set()
        for node in converted.graph.nodes:
            if node.op == "placeholder" or not varying.isdisjoint(node.all_input_nodes):
                varying.add(node)
                self._visit(node)

    def _visit(self, node: fx.Node) -> None:
        namespace, name = _operator(node)
        source: Any = node.args[0] if node.args else None
        if name == "quantize_per_tensor":
            self._quantizes(node, source)
        elif name == "dequantize_per_tensor" and source in self.integers:
            self.sources[node] = source
        elif namespace in REMEDIES:
            _refuse(node, REMEDIES[namespace])
        elif not self.integers.isdisjoint(node.all_input_nodes):
            _refuse(node, "it reads integers, where a dequantization should be")
        elif node.op == "call_module" and node.users:
            _refuse(node, "call convert_pt2e first")

    def _quantizes(self, node: fx.Node, source: fx.Node) -> None:
        numbers: list[Any] = list(node.args[1:5])
        if any(isinstance(each, fx.Node) for each in numbers):
            _refuse(node, REMEDIES["quantized_decomposed"])
        scale, zero_point, low, high = numbers
        ends = (low - zero_point) * scale, (high - zero_point) * scale
        self.integers.add(node)
        self.sources[node] = source
        while source in self.sources:
            source = self.sources[source]
        self.ends[source.name] = union([ends, self.ends.get(source.name, ends)])


def union(intervals: list[Ends]) -> Ends:
    """The smallest interval that covers all of ``intervals``."""
    lows, highs = zip(*intervals, strict=True)
    return min(lows), max(highs)


def _copied(converted: fx.GraphModule, skipped: Mapping[fx.Node, fx.Node]) -> fx.GraphModule:
    """``converted`` without the checks of its arguments, and without what is ``skipped`` for what
    stands in its place."""
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in converted.graph.nodes:
        if node in skipped:
            copies[node] = copies[skipped[node]]
        elif node.op == "output":
            results = converted.graph.process_outputs(node.args[0])
            graph.output(fx.node.map_arg(results, copies.__getitem__))
        elif node.op != "call_module":
            copies[node] = graph.node_copy(node, copies.__getitem__)
    return fx.GraphModule(converted, graph).eval()


def _noise(node: fx.Node, ends: Ends) -> Tensor:
    example = node.meta["val"]
    shape = [2, *(int(size) for size in example.shape[1:])]
    low, high = ends
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * (high - low) + low
    return noise.to(example.dtype)


def _operator(node: fx.Node) -> tuple[str, str]:
    """Namespace and name of the operator at ``node``; empty for anything else."""
    if not isinstance(node.target, OPERATOR):
        return "", ""
    namespace, name, _ = str(node.target).split(".")
    return namespace, name


def _refuse(node: fx.Node, remedy: str) -> NoReturn:
    raise InputError(f"{node.name!r} ({node.target}) is not read: {remedy}")
