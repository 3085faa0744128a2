"""Calibrated (or trained) places -> quantizers -> the integer graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, fx, nn

from qstrategies.operators.base import Node, Quantizer, Site, TensorSpec, form_of, shape_of
from qstrategies.operators.island import Float, island
from qstrategies.operators.layer import RoundedLayer
from qstrategies.quantization.blocks import Block, BlockProblem, blocks
from qstrategies.quantization.exact_forms import is_layer, module_at
from qstrategies.quantization.integer_graph import IntegerGraph
from qstrategies.quantization.place import Placement
from qstrategies.quantization.prepare import Prepared
from qstrategies.quantization.propagate import Propagation, RoundingProblem
from qstrategies.quantization.ranges import decided
from qstrategies.quantization.recipe import overrides, overrides_rounding
from qstrategies.quantization.rounding import Scaled, Way, rounded_layer, scaled
from qstrategies.quantization.steps import coarsened
from qstrategies.quantization.tie_free import check_tie_free


def decide(prepared: Prepared, batches: Sequence[tuple[Tensor, ...]] = ()) -> IntegerGraph:
    """Fix every quantizer and round every weight. ``prepared`` is not changed.

    Args:
        batches: inputs as the float model takes them, for recipes that choose integers and biases
            by them.

    Raises:
        InputError: a layer that cannot be rounded (``rounding.py``), or a node that has no
            fixed-point form where that is asked for.
    """
    graph = build(prepared, quantizers(prepared), batches)
    if prepared.config.fixed_point:
        check_tie_free(graph)
    return graph


def quantizers(prepared: Prepared) -> dict[int, Quantizer]:
    """The quantizer of every group, as it is exported."""
    found = wanted(prepared)
    return coarsened(prepared, found) if prepared.config.exact else found


def wanted(prepared: Prepared) -> dict[int, Quantizer]:
    """That of every group by itself; pixels are the integers themselves, their step is folded into
    the layers."""
    found = dict.fromkeys(prepared.pixel_groups, Quantizer(1.0))
    for group in prepared.placement.members:
        if group not in found:
            found[group] = decided(prepared.activations[group])
    return found


def build(
    prepared: Prepared,
    chosen: Mapping[int, Quantizer],
    batches: Sequence[tuple[Tensor, ...]] = (),
) -> IntegerGraph:
    """The integer graph with the quantizers ``chosen``."""
    builder = _Builder(prepared, chosen)
    nodes = list(prepared.graph.graph.nodes)
    placeholders = tuple(builder.spec(node) for node in nodes if node.op == "placeholder")
    if batches and overrides_rounding(prepared.recipe):
        builder.propagation = Propagation(prepared, batches)
        builder.propagation.enter(placeholders)
        known = any(quantizer.chosen for quantizer in prepared.weights.values())
        if overrides(prepared.recipe, "round_block") and not known:
            builder.blocks = {block.nodes[0]: block for block in blocks(prepared)}
    built = tuple(builder.node(node) for node in nodes if builder.stands(node))
    ends: Any = prepared.graph.graph.output_node().args[0]
    return IntegerGraph(placeholders, tuple(builder.spec(node) for node in ends), built)


class _Builder:
    def __init__(self, prepared: Prepared, chosen: Mapping[int, Quantizer]) -> None:
        self.prepared, self.chosen = prepared, chosen
        self.graph: fx.GraphModule = prepared.graph
        self.placement: Placement = prepared.placement
        self.propagation: Propagation | None = None
        self.blocks: dict[fx.Node, Block] = {}
        self.rounded: dict[str, Tensor] = {}

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
        node = self.placement.maker(end)
        if node in self.blocks:
            problem = self._block_problem(self.blocks[node])
            self.rounded.update(self.prepared.recipe.round_block(problem))
        made = self._made(self.site(node), node)
        if self.propagation is not None:
            self.propagation.advance(made)
        return made

    def site(self, node: fx.Node) -> Site:
        """The place of the form at ``node``, which a ReLU may join."""
        end = self.placement.end(node)
        joined = end is not node
        if joined:
            assert type(module_at(self.graph, end)) is nn.ReLU
        inputs = tuple(self.spec(each) for each in node.args if isinstance(each, fx.Node))
        return Site(
            name=str(node.target),
            module=module_at(self.graph, node),
            inputs=inputs,
            output=self.spec(end),
            relu=joined,
        )

    def _made(self, site: Site, node: fx.Node) -> Node:
        form = form_of(site.module)
        in_float = node.name in self.placement.islands
        if form is None or (in_float and not isinstance(site.module, Float)):
            return island(site, self.placement.reason(node))
        if is_layer(self.graph, node):
            site = replace(site, layer=self._rounded(site, node))
        return form.node(site)

    def _rounded(self, site: Site, node: fx.Node) -> RoundedLayer:
        pairs: Sequence[tuple[Tensor, Tensor]] = ()
        chooses = self._chooser(node)
        if self.propagation is not None:
            pairs = self.propagation.pairs(site.inputs[0].name, node)
        found, problem = self._scaled(site, pairs)
        balances = self.prepared.config.exact and not self.prepared.trained
        way = Way(self.prepared.recipe, balances, chooses)
        quantizer = self.prepared.weights[site.name]
        return rounded_layer(found, site.inputs[0].grid, quantizer, way, problem)

    def _scaled(
        self, site: Site, pairs: Sequence[tuple[Tensor, Tensor]] = ()
    ) -> tuple[Scaled, RoundingProblem]:
        quantizer = self.prepared.weights[site.name]
        ends = site.inputs[0].grid, site.output.grid
        found = scaled(site.module, site.name, quantizer, ends)
        problem = RoundingProblem(
            name=site.name,
            weight=found.weight,
            bias=found.bias,
            step=found.step,
            low=quantizer.quant_min,
            high=quantizer.quant_max,
            spacing=quantizer.level_set.spacing,
            relu=site.relu,
            layer=site.module,
            pairs=pairs,
        )
        return found, problem

    def _chooser(self, node: fx.Node) -> Callable[[RoundingProblem], Tensor] | None:
        """What chooses the integers of the layer at ``node``."""
        if node.name in self.rounded:
            return lambda _: self.rounded[node.name]
        chosen = self.prepared.weights[str(node.target)].chosen
        asks = overrides(self.prepared.recipe, "round_weights") and not chosen
        return self.prepared.recipe.round_weights if asks else None

    def _block_problem(self, block: Block) -> BlockProblem:
        assert self.propagation is not None
        pairs = self.propagation.pairs(block.entry.name, block.entry)
        entry = self.placement.groups.get(block.entry.name)
        if entry in self.prepared.pixel_groups:  # which are exact, in another unit than reals
            pairs = [(ours, ours) for ours, _ in pairs]
        inside = [each for each in block.nodes if is_layer(self.graph, each)]
        quantized = [each for each in inside if each.name not in self.placement.islands]
        numbers = {node.name: self.placement.groups.get(node.name) for node in block.nodes[:-1]}
        return BlockProblem(
            graph=self.graph,
            block=block,
            layers={each.name: self._scaled(self.site(each))[1] for each in quantized},
            grids={name: self.chosen[each] for name, each in numbers.items() if each is not None},
            examples=self.propagation.examples,
            pairs=pairs,
        )
