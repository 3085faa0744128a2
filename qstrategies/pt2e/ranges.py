"""Ranges that are known before anything is seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from qstrategies.operators.base import form_of
from qstrategies.pt2e.read import Ends, union
from qstrategies.quantization.activation_quantizers import ActivationQuantizer
from qstrategies.quantization.exact_forms import module_at
from qstrategies.quantization.quantizers import QuantizerSite
from qstrategies.quantization.recipe import Recipe
from qstrategies.quantization.saturation import units


class KnownRange(ActivationQuantizer):
    """Sees nothing outside ``ends``, and these first."""

    def __init__(self, observer: Any, ends: Ends) -> None:
        super().__init__(observer)
        self.known = ends
        observer(torch.tensor(ends))

    def observe(self, x: Tensor) -> Tensor:
        return super().observe(x.clamp(*self.known))


class KnownRanges(Recipe):
    """``ends`` as in ``read.Converted``. The tensors that share a quantizer get the smallest range
    that covers what is known of them."""

    def __init__(self, ends: Mapping[str, Ends]) -> None:
        self.ends = ends
        self.by_node: dict[str, Ends] = {}

    def rewrite(self, graph: fx.GraphModule) -> None:
        """Changes nothing: learns the nodes of the ranges, in the units of ``graph``."""
        unit, clamps = units(graph), _clamps(graph)
        for node in graph.graph.nodes:
            stands_for = node.meta.get("stands_for", ())
            known = [self.ends[name] for name in stands_for if name in self.ends]
            if known:
                ends = torch.tensor(union(known)) * unit[node.name]
                low, high = clamps[node.name](ends).tolist()
                self.by_node[node.name] = (low, high)

    def activation_quantizer(
        self, site: QuantizerSite, default: ActivationQuantizer
    ) -> ActivationQuantizer:
        known = [self.by_node[name] for name in site.members if name in self.by_node]
        return KnownRange(default.observer, union(known)) if known else default


def _clamps(graph: fx.GraphModule) -> dict[str, nn.Module]:
    """What the values of every node, by its name, were cut by last and only moved since."""
    found: dict[str, nn.Module] = {}
    for node in graph.graph.nodes:
        module = module_at(graph, node)
        form = form_of(module)
        if isinstance(module, nn.ReLU | nn.Hardtanh):
            found[node.name] = module
        elif form is not None and form.moves:
            found[node.name] = found[node.all_input_nodes[0].name]
        else:
            found[node.name] = nn.Identity()
    return found
