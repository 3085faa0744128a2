"""Factors moved between layers, so that the ranges of activations fit powers of two.

Layers are linear, and ReLU, pooling and moving values are positively homogeneous: ``f(c x) = c
f(x)`` for ``c > 0``. So a tensor that layers give and layers read may be ``c`` times as large, with
the weights and biases before it times ``c`` and the weights behind it divided by that, as in
``saturation.py``; a function that becomes a table takes any factor. With the right ``c`` a power of
two fits its range as well as any other scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from qstrategies.operators.base import form_of
from qstrategies.operators.table import Elementwise
from qstrategies.quantization.exact_forms import is_layer, module_at
from qstrategies.quantization.histogram import ExactHistogramObserver
from qstrategies.quantization.prepare import Prepared


@torch.no_grad()
def fit_ranges(prepared: Prepared) -> None:
    """Rescale what ``ExactHistogramObserver`` has seen between layers. In place; the function of
    the graph stays the same."""
    for group, members in prepared.placement.members.items():
        known = prepared.activations.get(group)
        observer = None if known is None else known.observer
        if not isinstance(observer, ExactHistogramObserver):
            continue
        between = _Between(prepared, members)
        if not between.stands:
            continue
        factor = observer.fit()
        for form in between.before:
            _give(form, factor)
        for form in between.behind:
            _read(form, factor)


def _give(form: Any, factor: float) -> None:
    """Let ``form`` give ``factor`` times as much."""
    if isinstance(form, Elementwise):
        form.gives *= factor
        return
    for parameter in form.parameters():
        parameter.mul_(factor)


def _read(form: Any, factor: float) -> None:
    """Let ``form`` give the same for ``factor`` times as much."""
    if isinstance(form, Elementwise):
        form.reads *= factor
    else:
        form.weight.div_(factor)


class _Between:
    """The layers and tables ``before`` and ``behind`` tensors that share a quantizer.

    ``stands``: whether nothing else gives or reads them.
    """

    def __init__(self, prepared: Prepared, members: Sequence[str]) -> None:
        self.prepared, self.members = prepared, set(members)
        self.before: list[Any] = []
        self.behind: list[Any] = []
        nodes = [node for node in prepared.graph.graph.nodes if node.name in self.members]
        self.stands = all(self._given(node) and self._read(node) for node in nodes)

    def _given(self, node: fx.Node) -> bool:
        if self._moved(node):
            return True
        source: Any = node.args[0] if node.args else None
        joined = isinstance(source, fx.Node) and source.name in self.prepared.placement.inner
        maker = source if joined else node
        if self._scales(maker):
            self.before.append(module_at(self.prepared.graph, maker))
            return True
        return False

    def _read(self, node: fx.Node) -> bool:
        for user in node.users:
            if self._scales(user):
                self.behind.append(module_at(self.prepared.graph, user))
            elif not self._moved(user):
                return False
        return bool(node.users)

    def _scales(self, node: fx.Node) -> bool:
        """Whether ``node`` is a layer or a table of integers, which may take a factor over."""
        graph = self.prepared.graph
        in_float = node.name in self.prepared.placement.islands
        table = isinstance(module_at(graph, node), Elementwise)
        return (table or is_layer(graph, node)) and not in_float

    def _moved(self, node: fx.Node) -> bool:
        """Whether ``node`` is one of the tensors and made from others of them."""
        form = form_of(module_at(self.prepared.graph, node))
        names = {node.name, *(source.name for source in node.all_input_nodes)}
        return form is not None and form.homogeneous and names <= self.members
