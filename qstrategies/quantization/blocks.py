"""Parts of a network that are rounded together: from one tensor that carries everything to the
next."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from qstrategies.operators.base import Quantizer
from qstrategies.quantization.exact_forms import module_at
from qstrategies.quantization.prepare import Prepared, quantized_layers
from qstrategies.quantization.propagate import RoundingProblem
from qstrategies.quantization.saturation import saturated

LARGEST = 8
"""Layers of a block; one with more, as a network whose first tensor is read at its end, falls apart
into its layers."""


@dataclass(frozen=True, eq=False)
class Block:
    """``nodes`` in the order of the graph, which read only each other and ``entry``; the last gives
    the result."""

    entry: fx.Node
    nodes: tuple[fx.Node, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class BlockProblem:
    """A block whose scales are decided and whose integers are not.

    Attributes:
        layers: the problem of each layer, by its node's name; without calibration tensors.
        grids: of the tensors inside that will be rounded, by their nodes' names.
        examples: in each of ``pairs``.
        pairs: by calibration batch, what the block reads in the network rounded so far and in the
            float network, in the unit of the former.
    """

    graph: fx.GraphModule
    block: Block
    layers: Mapping[str, RoundingProblem]
    grids: Mapping[str, Quantizer]
    examples: Sequence[int]
    pairs: Sequence[tuple[Tensor, Tensor]]

    def output(
        self,
        x: Tensor,
        weights: Mapping[str, Tensor],
        passed: Callable[[str, Tensor], Tensor] = lambda _, value: value,
    ) -> Tensor:
        """What the block gives for ``x`` with real ``weights`` by the names of ``layers``;
        ``passed`` gets every tensor inside with its node's name, and gives what is read of it."""
        values = {self.block.entry.name: x}
        for node in self.block.nodes:
            given = [values[source.name] for source in node.args if isinstance(source, fx.Node)]
            if node.name in self.layers:
                result = self.layers[node.name].output(weights[node.name], *given)
            else:
                result = module_at(self.graph, node)(*given)
            values[node.name] = passed(node.name, saturated(node, result))
        return values[self.block.nodes[-1].name]


def blocks(prepared: Prepared) -> list[Block]:
    """The blocks of ``prepared``, every quantized layer in one of them.

    A residual branch goes from its fork to its addition; a depthwise layer, which mixes no
    channels, goes with the layer behind it; any other layer stands alone.
    """
    layers = quantized_layers(prepared)
    found: list[Block] = []
    opened: Block | None = None
    for part in _parts(prepared):
        whole = part if opened is None else Block(opened.entry, opened.nodes + part.nodes)
        inside = [node for node in layers if node in whole.nodes]
        opened = whole if inside and _is_depthwise(prepared, inside[-1]) else None
        if inside and opened is None:
            found.append(whole)
    small = [each for each in found if len(set(layers) & set(each.nodes)) <= LARGEST]
    covered = {node for each in small for node in each.nodes}
    return small + [_alone(prepared, node) for node in layers if node not in covered]


def _parts(prepared: Prepared) -> list[Block]:
    """What lies between the tensors that alone are read further on."""
    nodes = list(prepared.graph.graph.nodes)
    places = {node: place for place, node in enumerate(nodes)}
    cuts, reach = [], 0
    for place, node in enumerate(nodes[:-1]):
        if reach <= place and node.name not in prepared.placement.inner:
            cuts.append(place)
        reach = max([reach, *(places[user] for user in node.users)])
    pairs = itertools.pairwise(cuts)
    return [Block(nodes[start], tuple(nodes[start + 1 : end + 1])) for start, end in pairs]


def _is_depthwise(prepared: Prepared, node: fx.Node) -> bool:
    layer = module_at(prepared.graph, node)
    groups: int = getattr(layer, "groups", 1)
    return groups > 1 and groups == layer.in_channels


def _alone(prepared: Prepared, node: fx.Node) -> Block:
    joined = tuple(node.users) if node.name in prepared.placement.inner else ()
    return Block(node.all_input_nodes[0], (node, *joined))
