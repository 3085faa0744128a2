"""Numbers that a forward decides by while it is traced: sizes of the example, and what is computed
from them."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from qstrategies.operators.base import is_number
from qstrategies.quantization.observe import QUERIES, own_lists, same

COMPARISONS = {operator.eq, operator.ge, operator.gt, operator.le, operator.lt, operator.ne}
MANY = 2**31  # examples


class NotKnownError(Exception):
    """A value that depends on the values of the input, or on how many examples there are."""


class Concrete:
    """Runs what is traced so far, each node once, on inputs of two batch sizes. Not to be traced
    while ``running``."""

    def __init__(self, root: nn.Module, inputs: Sequence[tuple[Tensor, ...]]) -> None:
        self.root, self.inputs = root, inputs
        self.values: list[dict[fx.Node, Any]] = [{} for _ in inputs]
        self.sizes_only: set[fx.Node] = set()
        self.running = False

    def value(self, node: fx.Node) -> Any:
        """What ``node`` gives for the example. Raises ``NotKnownError`` unless that follows from
        sizes alone."""
        found = self._found(node)
        if node not in self.sizes_only:
            raise NotKnownError("it depends on the values of the input")
        if not (same(*found) and self._for_any_count(node)):
            raise NotKnownError("it depends on how many examples there are")
        return found[0]

    def _for_any_count(self, node: fx.Node) -> bool:
        """Whether a comparison of numbers that comes out alike for 2 examples and for 3 does so for
        any count; what depends on that is taken to be linear in it."""
        if node.target not in COMPARISONS:
            return True
        sides: list[Any] = [map_arg(node.args, values.__getitem__) for values in self.values]
        if not all(is_number(each) for pair in sides for each in pair):
            return True
        two, three = (left - right for left, right in sides)
        if two == three:
            return True
        equal_at = 2 - two / (three - two)
        counts = (1, math.floor(equal_at), math.ceil(equal_at), MANY)
        compare: Any = node.target
        results = [compare(two + (three - two) * (count - 2), 0) for count in counts if count > 0]
        return len(set(results)) == 1

    def count(self, node: fx.Node) -> int:
        """How many parts ``node`` gives. Raises ``NotKnownError`` unless it gives several, and as
        many for any number of examples."""
        counts = [len(each) if hasattr(each, "__len__") else None for each in self._found(node)]
        if counts[0] is None:
            raise NotKnownError("it gives one number")
        if counts[0] != counts[1]:
            raise NotKnownError("its parts are the examples, as many as there are")
        return counts[0]

    @torch.no_grad()
    def _found(self, node: fx.Node) -> list[Any]:
        """What ``node`` gives for each number of examples."""
        self.running = True
        try:
            for each in list(node.graph.nodes):
                if each not in self.values[0]:
                    self._run(each)
        finally:
            self.running = False
        return [values[node] for values in self.values]

    def _run(self, node: fx.Node) -> None:
        for inputs, values in zip(self.inputs, self.values, strict=True):
            values[node] = self._result(node, inputs, values)
        sources = node.all_input_nodes
        asks_for_a_size = node.target in QUERIES
        if node.op != "placeholder" and (
            asks_for_a_size or all(source in self.sizes_only for source in sources)
        ):
            self.sizes_only.add(node)

    def _result(self, node: fx.Node, inputs: tuple[Tensor, ...], values: dict[fx.Node, Any]) -> Any:
        args, kwargs = own_lists(map_arg((node.args, node.kwargs), values.__getitem__))
        target: Any = node.target
        if node.op == "placeholder":
            place = [each for each in node.graph.nodes if each.op == "placeholder"].index(node)
            return inputs[place].clone()
        if node.op == "get_attr":
            return _attribute(self.root, target)
        if node.op == "call_module":
            return self.root.get_submodule(target)(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return target(*args, **kwargs)


def _attribute(root: nn.Module, path: str) -> Any:
    value: Any = root
    for name in path.split("."):
        value = getattr(value, name)
    return value
