"""Calibration batches on their way through a network that is rounded layer by layer, for strategies
that choose the integers of a weight by what the layer gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from qstrategies.operators.base import Node, TensorSpec
from qstrategies.quantization.exact_forms import module_at
from qstrategies.quantization.interface import InputSpec
from qstrategies.quantization.prepare import Prepared
from qstrategies.quantization.saturation import saturated
from qstrategies.quantization.scales import round_to_levels_


@dataclass(frozen=True, eq=False, kw_only=True)
class RoundingProblem:
    """One layer whose scale is decided and whose integers are not.

    Attributes:
        name: of the layer.
        weight: the real weight as it is exported: batch normalization and pixel step folded in.
        step: the scale, shaped to go with ``weight``.
        bias: the real bias [out_channels]; zeros where the layer has none.
        low: the smallest integer.
        high: the largest.
        spacing: what levels are apart: only odd integers where it is 2.
        relu: whether a ReLU joins the layer.
        layer: its float form.
    """

    name: str
    weight: Tensor
    bias: Tensor
    step: Tensor
    low: int
    high: int
    relu: bool
    layer: Any
    pairs: Sequence[tuple[Tensor, Tensor]]
    spacing: int = 1

    def nearest(self) -> Tensor:
        """Every weight rounded by itself, ties to even."""
        return round_to_levels_(self.weight / self.step, self.spacing).clamp(self.low, self.high)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """By calibration batch: the layer's input in the network rounded so far, and what the layer
        gives in the float network (before a ReLU)."""
        return iter(self.pairs)

    def output(self, weight: Tensor, x: Tensor) -> Tensor:
        """What the layer gives for the input ``x`` with the real ``weight`` and its float bias."""
        given = {"weight": weight}
        if self.layer.bias is not None:
            given["bias"] = self.layer.bias.detach()
        result: Tensor = torch.func.functional_call(self.layer, given, (x,))
        return result


class Propagation:
    """The tensors of all batches that are still to be read, in the rounded and in the float
    network."""

    def __init__(self, prepared: Prepared, batches: Sequence[tuple[Tensor, ...]]) -> None:
        self.graph, self.input_scale = prepared.graph, prepared.input_scale
        self.nodes = list(self.graph.graph.nodes)
        self.places = {node.name: place for place, node in enumerate(self.nodes)}
        self.waiting = iter(self.nodes)
        names = [node.name for node in self.nodes if node.op == "placeholder"]
        self.floats = [dict(zip(names, batch, strict=True)) for batch in batches]
        self.rounded: list[dict[str, Tensor]] = []
        self.examples = [len(batch[0]) for batch in batches]

    def enter(self, specs: Sequence[TensorSpec]) -> None:
        """Give the rounded network its inputs, whose quantizers are decided."""
        entries = [InputSpec.of(spec, self.input_scale) for spec in specs]
        for batch in self.floats:
            reals = [entry.reals(entry.integers(batch[entry.name])) for entry in entries]
            self.rounded.append(dict(zip((spec.name for spec in specs), reals, strict=True)))

    @torch.no_grad()
    def pairs(self, source: str, node: fx.Node) -> list[tuple[Tensor, Tensor]]:
        """For each batch, ``source`` in the rounded network and what ``node`` gives in the float
        one."""
        if node.name not in self.floats[0]:
            self._run_float_to(node)
        both = zip(self.rounded, self.floats, strict=True)
        return [(ours[source], theirs[node.name]) for ours, theirs in both]

    @torch.no_grad()
    def advance(self, node: Node) -> None:
        """Run ``node``, which is rounded now."""
        constants = [torch.from_numpy(array) for array in node.constants]
        grid = node.output.quantizer
        for values in self.rounded:
            y = node.reals(*(values[spec.name] for spec in node.inputs), *constants)
            values[node.output.name] = grid.rounded(y) if node.rounds and grid else y
        self._forget(self.rounded, self.places[node.output.name])

    def _run_float_to(self, layer: fx.Node) -> None:
        for node in self.waiting:
            module = module_at(self.graph, node)
            for values in self.floats if module is not None else ():
                given = (values[each.name] for each in node.all_input_nodes)
                values[node.name] = saturated(node, module(*given))
            self._forget(self.floats, self.places[node.name])
            if node is layer:
                return

    def _forget(self, batches: list[dict[str, Tensor]], place: int) -> None:
        """Drop what nothing behind ``place`` reads."""
        for name in list(batches[0]):
            readers = [self.places[user.name] for user in self.nodes[self.places[name]].users]
            if max(readers, default=place) <= place and self.places[name] < place:
                for values in batches:
                    del values[name]
