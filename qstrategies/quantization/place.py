"""Where quantizers lie: one group of tensors per quantizer, by the rule of each operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import fx, nn

from qstrategies.operators.base import Placing, form_of
from qstrategies.operators.constant import Constant
from qstrategies.operators.dropout import TRAINING_ONLY
from qstrategies.operators.island import BESIDE_FLOAT, ONLY_DIVIDES, Float
from qstrategies.operators.product import Divide
from qstrategies.quantization.exact_forms import NORM_KINDS, folds, module_at

T = TypeVar("T")


@dataclass(frozen=True)
class Placement:
    """Quantizers by the names of nodes.

    Attributes:
        groups: the quantized tensors, by the node that gives them; those with one number share a
            quantizer.
        inner: nodes whose result is never rounded by itself: a layer before its batch normalization
            or its ReLU.
        islands: nodes that compute in float.
    """

    groups: Mapping[str, int]
    inner: frozenset[str]
    islands: frozenset[str]

    @property
    def members(self) -> dict[int, list[str]]:
        """The names in each group, in the order of the graph."""
        found: dict[int, list[str]] = {}
        for name, group in self.groups.items():
            found.setdefault(group, []).append(name)
        return found

    def end(self, node: fx.Node) -> fx.Node:
        """The node whose result is rounded for ``node``: itself, or the norm and the ReLU behind
        it that it joins."""
        while node.name in self.inner:
            node = next(iter(node.users))
        return node

    def reason(self, node: fx.Node) -> str:
        """Why ``node``, which has an exact form, computes in float."""
        beside = all(source.name in self.islands for source in node.all_input_nodes)
        return BESIDE_FLOAT if beside else ONLY_DIVIDES

    def maker(self, end: fx.Node) -> fx.Node:
        """The node that a ReLU at ``end`` joins, or ``end``."""
        source: Any = end.args[0] if end.args else None
        joined = isinstance(source, fx.Node) and source.name in self.inner
        return source if joined else end


NOWHERE = Placement({}, frozenset(), frozenset())


def place(graph: fx.GraphModule) -> Placement:
    """Decide which tensors of ``graph`` are quantized, and which of them together.

    What has no exact form computes in float. So does anything but a layer whose inputs are all in
    float, or that only divides: only integer multiplication is worth a rounding, and a rounding
    may be the end of what keeps a divisor from 0. The other operators are quantized, and so is all
    that they read. Inputs and constants are as what reads them.
    """
    nodes = [node for node in graph.graph.nodes if node.op != "output"]
    in_float = _divisors(graph)
    for node in nodes:
        if _stays_in_float(graph, node, in_float):
            in_float.add(node)
    inner = {node for node in nodes if node not in in_float and _joins_its_reader(graph, node)}
    sets = Sets[fx.Node]()
    for node in nodes:
        if node in in_float or not node.all_input_nodes:
            continue
        sets.add(node)
        for source in node.all_input_nodes:
            sets.add(source)
            _add_behind(graph, sets, source)
        form = form_of(module_at(graph, node))
        if (
            form is not None
            and form.placing is Placing.SHARED
            and not inner & set(node.all_input_nodes)
        ):
            for source in node.all_input_nodes:
                sets.join(node, source)
    numbers: dict[fx.Node, int] = {}
    groups = {}
    for node in nodes:
        if node in sets.parents and node not in inner:
            groups[node.name] = numbers.setdefault(sets.find(node), len(numbers))
    names = [frozenset(node.name for node in some) for some in (inner, in_float)]
    return Placement(groups, *names)


def _add_behind(graph: fx.GraphModule, sets: Sets[fx.Node], node: fx.Node) -> None:
    """Let what is ``node`` in evaluation share its quantizer."""
    while isinstance(module_at(graph, node), TRAINING_ONLY):
        source: Any = node.args[0]
        sets.add(source)
        sets.join(node, source)
        node = source


def _stays_in_float(graph: fx.GraphModule, node: fx.Node, in_float: set[fx.Node]) -> bool:
    if node.meta["dtype"] != torch.float32:
        return True
    if node.op == "placeholder":
        return False
    form = form_of(module_at(graph, node))
    if form is None or form.placing is Placing.FLOAT:
        return True
    constants = {each for each in node.all_input_nodes if is_constant(graph, each)}
    varying = set(node.all_input_nodes) - constants
    return bool(varying) and not form.weighted and varying <= in_float


def is_constant(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether ``node`` gives the same for every input."""
    return isinstance(module_at(graph, node), Constant)


def _divisors(graph: fx.GraphModule) -> set[fx.Node]:
    """What nothing reads but divisions, as their divisor, and others of these; no layers."""
    found: set[fx.Node] = set()
    for node in reversed(graph.graph.nodes):
        form = form_of(module_at(graph, node)) if node.op == "call_module" else None
        if form is None or form.weighted or not (node.users and node.all_input_nodes):
            continue
        if all(user in found or _is_divided_by(graph, user, node) for user in node.users):
            found.add(node)
    return found


def _is_divided_by(graph: fx.GraphModule, node: fx.Node, divisor: fx.Node) -> bool:
    form = module_at(graph, node)
    is_quotient = isinstance(form, Float) and isinstance(form.module, Divide)
    return is_quotient and node.args[0] is not divisor


def _joins_its_reader(graph: fx.GraphModule, node: fx.Node) -> bool:
    form = form_of(module_at(graph, node))
    if form is None or not form.takes_relu or len(node.users) != 1:
        return False
    reader = next(iter(node.users))
    after = module_at(graph, reader)
    if type(after) is nn.ReLU:
        return True
    return isinstance(after, NORM_KINDS) and folds(graph, reader)


class Sets(Generic[T]):
    """Disjoint sets."""

    def __init__(self) -> None:
        self.parents: dict[T, T] = {}

    def add(self, member: T) -> None:
        """Begin a set with ``member``, unless it is in one."""
        self.parents.setdefault(member, member)

    def find(self, member: T) -> T:
        """What stands for the set of ``member``."""
        while self.parents[member] != member:
            member = self.parents[member]
        return member

    def join(self, a: T, b: T) -> None:
        """Make one set of those of ``a`` and ``b``."""
        self.parents[self.find(a)] = self.find(b)
