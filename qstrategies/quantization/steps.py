"""Steps made as coarse as the arithmetic around them asks.

A sum is exact in float32 only if its operands and its result lie within 24 bits of each other, zero
points and all. What an operand holds below 2^-13 of the other one's step is lost in their sum
anyway: a branch times 1e-6, as layer scale begins (Touvron et al., arXiv 2103.17239, section 2), or
one that was zero in calibration. And no result may have 2^31 steps, since some executors round to
int32 before they saturate.

Fixed-point kernels round a sum's ties each in its own way: its operands must lie on the grid of
the result, so that there is nothing to round, and within 2^6 of it: LiteRT's optimized kernel adds
the zero point in 16 bits, ``2 * 255 * 2^6 + 128 = 2^15``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import fx

from qstrategies.errors import NotFiniteError
from qstrategies.operators.addition import Add, Subtract
from qstrategies.operators.base import Quantizer
from qstrategies.operators.product import Multiply
from qstrategies.quantization.exact_forms import (
    folded_norm,
    folded_parameters,
    is_layer,
    module_at,
    output_rows,
)
from qstrategies.quantization.prepare import Prepared

FINEST = 2.0**-13
"""Of the coarsest step of a sum. Kernels count four times 255 steps of both operands, and the zero
point of the result, in the finest of the three: 4 (255 2^13 + 255) + 255 2^13 < 2^24."""
FINEST_FIXED = 2.0**-6
"""The same in fixed-point kernels."""
MOST_STEPS = 2.0**30
LARGEST = torch.finfo(torch.float32).max


def coarsened(prepared: Prepared, chosen: Mapping[int, Quantizer]) -> dict[int, Quantizer]:
    """``chosen`` with what is too fine raised; usually that is nothing.

    Raises:
        NotFiniteError: no step is coarse enough.
    """
    found = dict(chosen)
    while True:
        steps = _Steps(prepared, found).needed()
        finer = {group: step for group, step in steps.items() if step > found[group].scale}
        if not finer:
            return found
        for group, step in finer.items():
            found[group] = _with_step(found[group], step)


def _with_step(quantizer: Quantizer, step: float) -> Quantizer:
    """What holds the same range in coarser steps, the zero point even."""
    below = quantizer.zero_point * quantizer.scale
    return replace(quantizer, scale=step, zero_point=2 * round(below / step / 2))


class _Steps:
    """The smallest steps that ``chosen`` quantizers, by their groups, may have."""

    def __init__(self, prepared: Prepared, chosen: Mapping[int, Quantizer]) -> None:
        self.prepared, self.chosen = prepared, chosen
        self.graph, self.placement = prepared.graph, prepared.placement
        self.fixed_point = prepared.config.fixed_point
        self.nodes = {node.name: node for node in self.graph.graph.nodes}
        self.results = dict(self._results())

    def needed(self) -> dict[int, float]:
        """By group; those that have to stay as they are, left out."""
        found = dict.fromkeys(self.chosen, 0.0)
        for node, group in self.results.items():
            found[group] = max(found[group], self._of_result(node))
        for group, members in self.placement.members.items():
            found[group] = max(found[group], self._of_operand(members))
        pixels = self.prepared.pixel_groups
        return {
            group: step
            for group, step in found.items()
            if group not in pixels and not self.prepared.saturates(group)
        }

    def _results(self) -> Iterator[tuple[fx.Node, int]]:
        """The nodes that compute in integers, and the groups that their results are rounded to,
        behind a ReLU if they join one."""
        for node in self.nodes.values():
            computes = node.op == "call_module" and bool(node.all_input_nodes)
            if computes and node.name not in self.placement.islands:
                yield node, self.placement.groups[self.placement.end(node).name]

    def _inputs(self, node: fx.Node) -> list[Quantizer]:
        groups = self.placement.groups
        return [self.chosen[groups[each.name]] for each in node.all_input_nodes]

    def _of_result(self, node: fx.Node) -> float:
        if self._adds(node):
            return self._finest(node)
        module = module_at(self.graph, node)
        if isinstance(module, Multiply):
            a, *b = map(_reach, self._inputs(node))
            return _fitting(node, a * max(b, default=a))
        return _fitting(node, self._largest_sum(node)) if is_layer(self.graph, node) else 0.0

    @torch.no_grad()
    def _largest_sum(self, layer: fx.Node) -> float:
        """The largest magnitude that a layer can give."""
        module = module_at(self.graph, layer)
        weight, bias = folded_parameters(module, folded_norm(self.graph, layer))
        unit = self.prepared.weights[str(layer.target)].unit
        reach = _reach(*self._inputs(layer)) * unit
        sums = output_rows(module, weight).flatten(1).abs().sum(1) * reach
        return float((sums + bias.abs()).max())

    def _of_operand(self, members: Sequence[str]) -> float:
        """The least that one of the additions asks for which read a group; 0 where others read it
        too, which may need the finest step."""
        users = {user for name in members for user in self.nodes[name].users}
        readers = [user for user in users if user.name not in members]
        if self.fixed_point:
            sums = [each for each in users if each in self.results and self._adds(each)]
            return max((self.chosen[self.results[each]].scale for each in sums), default=0.0)
        if not all(reader in self.results and self._adds(reader) for reader in readers):
            return 0.0
        return min((self._finest(reader) for reader in readers), default=0.0)

    def _finest(self, addition: fx.Node) -> float:
        """The finest step beside the coarsest of those that meet in ``addition``."""
        meeting = [*self._inputs(addition), self.chosen[self.results[addition]]]
        finest = FINEST_FIXED if self.fixed_point else FINEST
        return finest * max(each.scale for each in meeting)

    def _adds(self, node: fx.Node) -> bool:
        return isinstance(module_at(self.graph, node), Add | Subtract)


def _reach(quantizer: Quantizer) -> float:
    """The largest magnitude on its grid."""
    below, above = quantizer.zero_point, quantizer.quant_max - quantizer.zero_point
    return max(below, above) * quantizer.scale


def _fitting(node: fx.Node, largest: float) -> float:
    """The smallest power of two of which ``largest``, which ``node`` may give, is no more than
    ``MOST_STEPS``. Where tensors of one quantizer are made of one another there may be none."""
    if largest > LARGEST:
        raise NotFiniteError(
            f"not finite: the largest result of {node.target} that the quantizers before it allow. "
            "Keep the values smaller, or the product of tensors apart from what it is made of"
        )
    if not largest:
        return 0.0
    return 2.0 ** math.ceil(math.log2(largest / MOST_STEPS))
