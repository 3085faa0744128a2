"""Calibrated (or trained) places -> quantizers -> the integer graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import fx, nn

from qstrategies.operators.base import Node, Quantizer, Site, TensorSpec, form_of, shape_of
from qstrategies.operators.island import island
from qstrategies.quantization.exact_forms import is_layer, module_at
from qstrategies.quantization.integer_graph import IntegerGraph
from qstrategies.quantization.place import Placement
from qstrategies.quantization.prepare import Prepared, weight_quantizer
from qstrategies.quantization.ranges import decided
from qstrategies.quantization.rounding import rounded_layer


def decide(prepared: Prepared) -> IntegerGraph:
    """Fix every quantizer and round every weight. ``prepared`` is not changed.

    Raises:
        InputError: a layer that cannot be rounded (``rounding.py``).
    """
    return build(prepared, quantizers(prepared))


def quantizers(prepared: Prepared) -> dict[int, Quantizer]:
    """The quantizer of every group; pixels are the integers themselves, their step is folded into
    the layers."""
    found = dict.fromkeys(prepared.pixel_groups, Quantizer(1.0))
    for group, members in prepared.placement.members.items():
        if group not in found:
            observer = prepared.observers[group]
            found[group] = decided(observer, prepared.graph, members, exact=prepared.config.exact)
    return found


def build(prepared: Prepared, chosen: Mapping[int, Quantizer]) -> IntegerGraph:
    """The integer graph with the quantizers ``chosen``."""
    builder = _Builder(prepared, chosen)
    nodes = list(prepared.graph.graph.nodes)
    placeholders = tuple(builder.spec(node) for node in nodes if node.op == "placeholder")
    built = tuple(builder.node(node) for node in nodes if builder.stands(node))
    ends: Any = prepared.graph.graph.output_node().args[0]
    return IntegerGraph(placeholders, tuple(builder.spec(node) for node in ends), built)


class _Builder:
    def __init__(self, prepared: Prepared, chosen: Mapping[int, Quantizer]) -> None:
        self.prepared, self.chosen = prepared, chosen
        self.graph: fx.GraphModule = prepared.graph
        self.placement: Placement = prepared.placement
        self.weights = weight_quantizer(prepared.config)

    def stands(self, node: fx.Node) -> bool:
        """Whether a node of the integer graph is made from ``node``."""
        return node.op == "call_module" and node.name not in self.placement.inner

    def spec(self, node: fx.Node) -> TensorSpec:
        """The tensor that ``node`` gives."""
        group = self.placement.groups.get(node.name)
        quantizer = None if group is None else self.chosen[group]
        return TensorSpec(node.name, shape_of(node), quantizer, node.meta["dtype"])

    def node(self, end: fx.Node) -> Node:
        """The node whose result ``end`` gives: of its module, or of the one before it if ``end`` is
        its ReLU."""
        source: Any = end.args[0] if end.args else None
        joined = isinstance(source, fx.Node) and source.name in self.placement.inner
        node: fx.Node = source if joined else end
        if joined:
            assert type(module_at(self.graph, end)) is nn.ReLU
        inputs = tuple(self.spec(each) for each in node.args if isinstance(each, fx.Node))
        site = Site(
            name=str(node.target),
            module=module_at(self.graph, node),
            inputs=inputs,
            output=self.spec(end),
            relu=joined,
        )
        return self._made(site, node)

    def _made(self, site: Site, node: fx.Node) -> Node:
        form = form_of(site.module)
        if form is None or node.name in self.placement.islands:
            reason = getattr(site.module, "reason", "all that it reads is in float")
            return island(site, reason)
        if is_layer(self.graph, node):
            layer = rounded_layer(
                site.module, site.name, self.weights, site.inputs[0], site.output, self._unit(node)
            )
            site = replace(site, layer=layer)
        return form.node(site)

    def _unit(self, node: fx.Node) -> float:
        """What is folded into the weights of the layer at ``node``: the pixel step, if it reads
        pixels."""
        source: Any = node.args[0]
        reads_pixels = self.placement.groups[source.name] in self.prepared.pixel_groups
        return self.prepared.input_scale or 1.0 if reads_pixels else 1.0
