"""Factors moved between layers, so that the ranges of activations fit powers of two.

Layers are linear, and ReLU, pooling and moving values are positively homogeneous: ``f(c x) = c
f(x)`` for ``c > 0``. So a tensor that layers give and layers read may be ``c`` times as large, with
the weights and biases before it times ``c`` and the weights behind it divided by that, as in
``saturation.py``; a function that becomes a table takes any factor, and so does what stays in
float. With the right ``c`` a power of two fits its range as well as any other scale. Tensors that
are added up, as the branches of a residual network are, have one factor: that of the least noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from qstrategies.operators.base import form_of
from qstrategies.operators.constant import Constant
from qstrategies.operators.island import Float
from qstrategies.operators.product import Multiply
from qstrategies.operators.table import Elementwise
from qstrategies.quantization.exact_forms import is_layer, module_at
from qstrategies.quantization.histogram import ExactHistogramObserver
from qstrategies.quantization.place import Sets, is_constant
from qstrategies.quantization.prepare import Prepared
from qstrategies.quantization.scales import SMALLEST_STEP, power_of_two_above


@torch.no_grad()
def fit_ranges(prepared: Prepared) -> None:
    """Rescale what ``ExactHistogramObserver`` has seen between layers. In place; the function of
    the graph stays the same."""
    members = prepared.placement.members
    for groups in _joint(prepared):
        known = [prepared.activations.get(group) for group in groups]
        found = [None if each is None else each.observer for each in known]
        observers = [each for each in found if isinstance(each, ExactHistogramObserver)]
        between = _Between(prepared, [name for group in groups for name in members[group]])
        if len(observers) < len(groups) or not between.stands:
            continue
        factor = _least_noise(observers)
        for observer in observers:
            observer.enlarge(factor)
        for node in between.before:
            _give(_form(prepared, node), factor)
        for node, number in between.behind:
            _read(_form(prepared, node), number, factor)


def _joint(prepared: Prepared) -> list[list[int]]:
    """The groups of tensors, those together whose factors are one."""
    groups, sets = prepared.placement.groups, Sets[int]()
    for name in groups:
        sets.add(groups[name])
    for node in prepared.graph.graph.nodes:
        if _passes(prepared, node):
            nodes = (prepared.placement.end(node), *_scaled(prepared, node))
            first, *others = [groups[each.name] for each in nodes if each.name in groups]
            for other in others:
                sets.join(first, other)
    found: dict[int, list[int]] = {}
    for group in sets.parents:
        found.setdefault(sets.find(group), []).append(group)
    return list(found.values())


def _passes(prepared: Prepared, node: fx.Node) -> bool:
    """Whether ``node`` gives ``c`` times as much for ``c`` times as much of what it reads, but for
    the constant of a product."""
    form = form_of(module_at(prepared.graph, node))
    of_product = _is_product(prepared, node) and _scaled(prepared, node) != node.all_input_nodes
    passes = of_product or (form is not None and form.homogeneous)
    return passes and node.name not in prepared.placement.islands


def _is_product(prepared: Prepared, node: fx.Node) -> bool:
    return isinstance(module_at(prepared.graph, node), Multiply)


def _scaled(prepared: Prepared, node: fx.Node) -> list[fx.Node]:
    """What ``node`` reads, without the constant of a product."""
    read = node.all_input_nodes
    if not _is_product(prepared, node):
        return read
    return [each for each in read if not is_constant(prepared.graph, each)]


def _least_noise(observers: Sequence[ExactHistogramObserver]) -> float:
    """The factor below 2 that lets one range fill its power of two, and gives the least sum of
    squared scales of all, in the unit of what is observed."""
    factors = torch.tensor([observer.filling() for observer in observers])
    steps = torch.tensor([observer.step for observer in observers]).clamp(min=SMALLEST_STEP)
    scales = power_of_two_above(factors[:, None] * steps) / factors[:, None]
    return float(factors[scales.double().square().sum(1).argmin()])


def _form(prepared: Prepared, node: fx.Node) -> Any:
    """What ``node`` calls; whatever computes in float takes factors as a ``Float``."""
    form = module_at(prepared.graph, node)
    if node.name not in prepared.placement.islands or isinstance(form, Float):
        return form
    wrapped = Float(form, type(form).__name__, prepared.placement.reason(node))
    prepared.graph.set_submodule(str(node.target), wrapped)
    return wrapped


def _give(form: Any, factor: float) -> None:
    """Let ``form`` give ``factor`` times as much."""
    if isinstance(form, Elementwise | Float | Constant):
        form.gives *= factor
        return
    for parameter in form.parameters():
        parameter.mul_(factor)


def _read(form: Any, number: int, factor: float) -> None:
    """Let ``form`` give the same for ``factor`` times as much of its input ``number``."""
    if isinstance(form, Float):
        form.reads[number] = form.reads.get(number, 1.0) * factor
    elif isinstance(form, Elementwise):
        form.reads *= factor
    else:
        form.weight.div_(factor)


class _Between:
    """The nodes ``before`` and ``behind`` tensors that share a quantizer: layers, tables, and what
    computes in float; those behind with the number of the input.

    ``stands``: whether nothing else gives or reads them.
    """

    def __init__(self, prepared: Prepared, members: Sequence[str]) -> None:
        self.prepared, self.members = prepared, set(members)
        self.before: list[fx.Node] = []
        self.behind: list[tuple[fx.Node, int]] = []
        nodes = [node for node in prepared.graph.graph.nodes if node.name in self.members]
        self.stands = all(self._given(node) and self._read(node) for node in nodes)

    def _given(self, node: fx.Node) -> bool:
        maker = self.prepared.placement.maker(node)
        if self._within(maker):
            return True
        if self._scales(maker):
            self.before.append(maker)
            return True
        return False

    def _read(self, node: fx.Node) -> bool:
        for user in node.users:
            if self._scales(user):
                places = [number for number, each in enumerate(user.args) if each is node]
                self.behind += [(user, number) for number in places]
            elif not self._within(user):
                return False
        return bool(node.users)

    def _scales(self, node: fx.Node) -> bool:
        """Whether ``node`` may take a factor over."""
        graph = self.prepared.graph
        in_float = node.op == "call_module" and node.name in self.prepared.placement.islands
        takes = isinstance(module_at(graph, node), Elementwise | Constant)
        return in_float or is_layer(graph, node) or takes

    def _within(self, node: fx.Node) -> bool:
        """Whether ``node`` makes one of the tensors from others of them."""
        nodes = (self.prepared.placement.end(node), *_scaled(self.prepared, node))
        return _passes(self.prepared, node) and {each.name for each in nodes} <= self.members
