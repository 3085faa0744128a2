"""A captured model -> a graph of forms (``operators/``), by observing two runs of it.

Nothing is decided from names where it can be seen. What is changed in place shows in a tensor's
version, an alias in its storage, what does nothing in its result; a number is the batch size, or
depends on it, if a run of two examples and one of three differ in it; a reshape is its result's
shape. What depends on no input (standardized or parametrized weights, functional layers) is
computed once, here, and is a parameter if it is made of one. Only then are operators asked whether
they know a call; what none knows stays in float.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from qstrategies.errors import InputError
from qstrategies.operators.batch_number import numbers_of_batch
from qstrategies.operators.dropout import DROPOUTS, Scattered
from qstrategies.operators.layer import own_module
from qstrategies.quantization.call import FIRST_PARTS, SPLITS, Call, refuse_halves, slices
from qstrategies.quantization.capture import Captured
from qstrategies.quantization.gradients import DETACHES, stop_gradients
from qstrategies.quantization.meanings import (
    RowPerExample,
    Stale,
    called,
    computed,
    fixed,
    repeated_along,
    size,
    sizes_apart,
)
from qstrategies.quantization.new_graph import NewGraph
from qstrategies.quantization.observe import (
    OF_THEIR_TYPE,
    QUERIES,
    Fact,
    Facts,
    describe,
    holds_tensor,
    observe,
    same,
    two_batches,
)
from qstrategies.quantization.structure import as_container
from qstrategies.quantization.writes import is_whole, item_of, names_of, refuse_own_view, stale


@dataclass(frozen=True)
class Normalized:
    """``module``: a graph whose every node calls a form; its meta has ``shape`` and ``dtype`` of
    each.

    ``outputs``: what the model returns, nodes in the place of tensors. ``expected``: what the
    user's model gave for the two examples of ``inputs``, one per tensor of ``outputs``: for the
    self-check.
    """

    module: fx.GraphModule
    outputs: Any
    inputs: tuple[Tensor, ...]
    expected: Any


def normalize(captured: Captured, example: Sequence[Tensor]) -> Normalized:
    """The graph of forms of a model in eval mode; the user's modules are copied, not changed.

    Raises:
        InputError: the model fails on its example, decides by the values of its input, or changes a
            tensor in place that is read later through another view.
    """
    runs = two_batches(example)
    kept = tuple(tensor.clone() for tensor in runs[0])
    facts = [observe(captured.module, inputs) for inputs in runs]
    stop_gradients(captured.module.graph, facts)
    return Rebuild(captured, *facts).run(kept)


class Rebuild:
    """The new graph while it is made, and what each node of the old one means in it."""

    def __init__(self, captured: Captured, two: Facts, three: Facts) -> None:
        self.captured, self.two, self.three = captured, two, three
        self.new = NewGraph()
        self.env: dict[fx.Node, Any] = {}
        self.varying: set[fx.Node] = set()
        self.trained: set[fx.Node] = set()

    @torch.enable_grad()  # what is computed from parameters is trained, and autograd knows
    def run(self, inputs: tuple[Tensor, ...]) -> Normalized:
        nodes = self.captured.module.graph.nodes
        for node in nodes:
            self._visit(node)
        end = self.captured.module.graph.output_node()
        outputs = self.new.end(self.take(end.args[0]))
        return Normalized(self.new.module(), outputs, inputs, self.two[end].value)

    def _visit(self, node: fx.Node) -> None:
        fact, other = self.two[node], self.three[node].value
        reads_input = not self.varying.isdisjoint(self._read(node))
        if node.op == "placeholder":
            self.varying.add(node)
            self.env[node] = self.new.placeholder(node.name, fact.value, other)
        elif node.op == "output":
            return
        elif not reads_input:
            self.env[node] = self._constant(node, fact.value, other)
        elif not (holds_tensor(fact.value) or fact.changed):
            self.env[node] = self._property(node, fact.value, other)
        else:
            self.varying.add(node)
            self._varying(node, fact, other)
        made = self.env.get(node)
        if isinstance(made, fx.Node):
            made.meta.setdefault("stands_for", []).append(node.name)

    def _read(self, node: fx.Node) -> Sequence[fx.Node]:
        """The nodes whose values ``node`` reads, not only their type."""
        of_its_type = OF_THEIR_TYPE.get(node.target)
        args = [each for place, each in enumerate(node.args) if place != of_its_type]
        read: list[fx.Node] = []
        map_arg((args, node.kwargs), read.append)
        return read

    def _constant(self, node: fx.Node, value: Any, other: Any) -> Any:
        """What depends on no input; numbers made of the batch size among it, and tensors that are
        made of such numbers."""
        args, kwargs = map_arg((node.args, dict(node.kwargs)), self.env.get)
        of_batch = node.op != "call_module" and bool(numbers_of_batch((args, kwargs)))
        if of_batch and not holds_tensor(value):
            return computed(functools.partial(called, node), args, kwargs)
        if of_batch:
            refuse_halves(node, (args, kwargs))
        if holds_tensor(value) and not same(value, other):
            dim = repeated_along(value, other)
            if dim is not None:
                return RowPerExample(self._trained(node, value.narrow(dim, 0, 1)), dim)
            sources = map(self.env.get, node.all_input_nodes)
            of_rows = any(isinstance(each, RowPerExample) for each in sources)
            several = of_rows and sizes_apart(value, other) != [(2, 3)]
            if (of_batch or several) and isinstance(value, Tensor):
                self.varying.add(node)
                return Call(self, node, value, other).island()
            # what the input is written into later is known then, as it was before
            return Stale(f"{describe(node)} gives other values in every run: it cannot be exported")
        return fixed(self._trained(node, value), other)

    def _trained(self, node: fx.Node, value: Any) -> Any:
        """``value`` of ``node``, a parameter if it is computed from parameters that are trained."""
        sources: list[Any] = [value]
        if node.op == "call_module":
            sources = list(self.captured.module.get_submodule(str(node.target)).parameters())
        known = any(isinstance(each, nn.Parameter) and each.requires_grad for each in sources)
        if node.target in DETACHES:
            return value
        if not known and self.trained.isdisjoint(node.all_input_nodes):
            return value
        self.trained.add(node)
        is_new = isinstance(value, Tensor) and not isinstance(value, nn.Parameter)
        return nn.Parameter(value) if is_new and value.is_floating_point() else value

    def _property(self, node: fx.Node, value: Any, other: Any) -> Any:
        """What depends on the input and is no tensor: a size or a type, else it is not known before
        the input is."""
        if self._is_part(node):
            return self._part(node)
        if node.target not in QUERIES:
            raise InputError(
                f"{describe(node)} depends on the values of the input, which a file "
                "cannot: take it out of forward"
            )
        asked: Any = node.args[0]
        sources = [facts[asked].value for facts in (self.two, self.three)]
        return size(node, sources, (value, other))

    def _varying(self, node: fx.Node, fact: Fact, other: Any) -> None:
        written = fact.changed
        if written is not None and written not in self.varying and fact.before is not None:
            self.env[written] = self._constant(written, fact.before, self.three[node].before)
        if fact.changed is not None and fact.value is None:
            self._assignment(node, fact.changed)
        elif fact.same_as is not None and not self._may_do_more(node):
            self.env[node] = self.take(fact.same_as)
        elif node.target in self.captured.scattering:
            module = own_module(self.captured.module.get_submodule(str(node.target)))
            call = Call(self, node, fact.value, other)
            self.env[node] = call.emit(Scattered(module), self.take(fact.same_as))
        elif isinstance(fact.value, Tensor):
            self.env[node] = self._call(node, fact.value, other)
            if fact.changed is not None:
                refuse_own_view(self.two, node, fact.changed)
                self._written(node, fact.changed)
            self.env.update(dict.fromkeys(fact.reshaped, self.env[node]))
        else:
            self.env[node] = self._several(node, fact.value, other)

    def _may_do_more(self, node: fx.Node) -> bool:
        """Whether a node that returned its input as it was does something in training, or for other
        values."""
        if node.op != "call_module":
            return node.target in DROPOUTS or node.target in DETACHES
        module = self.captured.module.get_submodule(str(node.target))
        chosen = {*self.captured.leaves, *self.captured.scattering}
        return node.target in chosen or isinstance(module, nn.modules.dropout._DropoutNd)

    def _is_part(self, node: fx.Node) -> bool:
        """Whether ``node`` takes a part, by its place or name, of what holds several."""
        takes = node.target in (operator.getitem, getattr)
        return takes and isinstance(self.env[node.args[0]], tuple | list | Mapping)  # type: ignore[index]

    def _part(self, node: fx.Node) -> Any:
        source: Any = node.args[0]
        parts, key = self.take(source), node.args[1]
        if node.target is getattr and not isinstance(parts, Mapping):
            found = self.two[source].value  # a tuple with names, as torch.max gives one
            key = next(place for place, each in enumerate(found) if each is getattr(found, key))
        return parts[key]

    def _call(self, node: fx.Node, value: Tensor, other: Tensor) -> fx.Node:
        """The node of a form, or of an island, that gives what ``node`` gives."""
        if self._is_part(node):
            part: fx.Node = self._part(node)
            return part
        call = Call(self, node, value, other)
        found = call.recognized()
        return call.island() if found is None else found

    def _several(self, node: fx.Node, values: Any, other: Any) -> Any:
        """What a node gives that is a container of tensors: parts of its input, or of an island."""
        if isinstance(node.target, type):  # a dataclass, made at the end of forward
            return node.target(*self.take(node.args), **self.take(node.kwargs))
        if self._is_part(node):
            return self._part(node)
        if node.target in SPLITS:
            return slices(self, node, values, other)
        return self._parts(node, values, other, ())

    def _parts(self, node: fx.Node, value: Any, other: Any, path: tuple[Any, ...]) -> Any:
        value, other = as_container(value), as_container(other)
        if isinstance(value, Tensor):
            call, whole = Call(self, node, value, other), FIRST_PARTS.get(node.target)
            known = call.recognized(whole) if whole is not None and path == (0,) else None
            return call.island(path) if known is None else known
        if isinstance(value, Mapping):
            return {
                name: self._parts(node, each, other[name], (*path, name))
                for name, each in value.items()
            }
        if isinstance(value, tuple | list):
            pairs = enumerate(zip(value, other, strict=True))
            return tuple(self._parts(node, a, b, (*path, index)) for index, (a, b) in pairs)
        return fixed(value, other)

    def _assignment(self, node: fx.Node, changed: fx.Node) -> None:
        """``x[index] = value`` and its like: a new tensor, which every name of the old one now
        means."""
        before = self.two[changed].value
        call = Call(self, node, before, self.three[changed].value)
        self.env[node] = call.island(assigns=True)
        self._written(node, changed)

    def _written(self, node: fx.Node, changed: fx.Node) -> None:
        """Let every name of the tensor that ``node`` changed mean the new value, every name of
        that of which it is an item that with the new item, and their views views of these; what
        cannot be told means nothing any more."""
        names = [each for each in names_of(self.two, changed) if each in self.env]
        known = [(changed, self.env[node])]
        whole = item_of(changed)
        while whole in names:
            assert whole is not None
            known.append((whole, self._with_item(node, whole, *known[-1])))
            whole = item_of(whole)
        for old in names:
            if old is not node:
                self.varying.add(old)
                now = (value for one, value in known if is_whole(self.two, old, one))
                self.env[old] = next(now, None) or self._viewed_again(old, names, node)

    def _viewed_again(self, view: fx.Node, names: Sequence[fx.Node], writer: fx.Node) -> Any:
        """``view`` of one of ``names``, all that come before it renewed after ``writer``."""
        base = view.args[0] if view.args else None
        if base not in names or isinstance(self.env[base], Stale):  # type: ignore[index]
            return stale(view, writer)
        return self._call(view, self.two[view].value, self.three[view].value)

    def _with_item(self, node: fx.Node, whole: fx.Node, item: fx.Node, value: Any) -> fx.Node:
        """``whole`` after ``node`` made ``value`` of its ``item``."""
        call = Call(self, node, self.two[whole].value, self.three[whole].value)
        return call.assigned(self.take(whole), self.take(item.args[1]), value)

    def take(self, arguments: Any, *, broadcasts: bool = False) -> Any:
        """What the nodes in ``arguments`` stand for; with ``broadcasts``, a constant row stands for
        itself."""

        def one(node: fx.Node) -> Any:
            value = self.env[node]
            if isinstance(value, Stale):
                raise InputError(value.reason)
            if isinstance(value, RowPerExample):
                if broadcasts:
                    return value.row
                self.env[node] = self.new.repeated(node.name, value)
                return self.env[node]
            return value

        return map_arg(arguments, one)
