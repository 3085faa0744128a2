"""Numbers that a forward decides by while it is traced: sizes of the example, and what is computed
from them."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from qstrategies.operators.batch_number import OfBatch, numbers_of_batch
from qstrategies.quantization.meanings import (
    Stale,
    but_for_one,
    called,
    computed,
    size,
    uneven,
)
from qstrategies.quantization.observe import QUERIES, holds_tensor, own_lists, same

OF_VALUES = Stale("it depends on the values of the input")
OF_COUNT = Stale("it depends on how many examples there are")
RANDOM = Stale("it is another at every call")
COMPARISONS = (operator.eq, operator.ne)


class NotKnownError(Exception):
    """A value that depends on the values of the input, or on how many examples there are."""


class Concrete:
    """Runs what is traced so far, each node once, on inputs of two batch sizes, and says what
    follows from sizes for any. Not to be traced while ``running``.

    With ``assumes``, comparisons that differ for one number of examples only are what they are for
    all others; those numbers are ``assumed``, and to be tried.
    """

    def __init__(
        self, root: nn.Module, inputs: Sequence[tuple[Tensor, ...]], *, assumes: bool = False
    ) -> None:
        self.root, self.inputs, self.assumes = root, inputs, assumes
        self.assumed: set[int] = set()
        self.values: list[dict[fx.Node, Any]] = [{} for _ in inputs]
        self.meanings: dict[fx.Node, Any] = {}
        self.uneven: set[fx.Node] = set()
        self.running = False

    def value(self, node: fx.Node) -> Any:
        """What ``node`` gives for the example. Raises ``NotKnownError`` unless that follows from
        sizes alone."""
        found = self._found(node)[0]
        meaning = self.meanings[node]
        if self.assumes and isinstance(meaning, OfBatch) and node.target in COMPARISONS:
            usual, exception = but_for_one(meaning, map_arg(node.args, self.meanings.__getitem__))
            if exception is not None:
                self.assumed.add(exception)
                return usual
        if numbers_of_batch(meaning):
            meaning = OF_COUNT
        if isinstance(meaning, Stale):
            raise NotKnownError(meaning.reason)
        return found

    def count(self, node: fx.Node) -> int:
        """How many parts ``node`` gives. Raises ``NotKnownError`` unless it gives several, and as
        many for any number of examples."""
        counts = [len(each) if hasattr(each, "__len__") else None for each in self._found(node)]
        if counts[0] is None:
            raise NotKnownError("it gives one number")
        if counts[0] != counts[1] or node in self.uneven:
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
        self.meanings[node] = self._meaning(node)

    def _meaning(self, node: fx.Node) -> Any:
        """What ``node`` is for any number of examples, or why it is not known. Sizes are taken to
        be linear in that number unless they are made of one that is not."""
        sources = node.all_input_nodes
        found = [values[node] for values in self.values]
        args, kwargs = map_arg((node.args, dict(node.kwargs)), self.meanings.__getitem__)
        numbers = numbers_of_batch((args, kwargs))
        of_tensors = any(holds_tensor(self.values[0][each]) for each in (node, *sources))
        if of_tensors and (any(map(uneven, numbers)) or not self.uneven.isdisjoint(sources)):
            self.uneven.add(node)
        if node.target in QUERIES and not holds_tensor(found[0]):
            asked = [values[sources[0]] for values in self.values]
            return OF_COUNT if node in self.uneven else size(node, asked, found)
        if node.op == "placeholder":
            return OF_VALUES
        stale = [each for each in map(self.meanings.get, sources) if isinstance(each, Stale)]
        if stale:
            return stale[0]
        if not numbers:
            return found[0] if same(*found) else RANDOM
        if of_tensors:
            return OF_COUNT
        return computed(functools.partial(called, node), args, kwargs)

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
        return called(node, *args, **kwargs)


def _attribute(root: nn.Module, path: str) -> Any:
    value: Any = root
    for name in path.split("."):
        value = getattr(value, name)
    return value
