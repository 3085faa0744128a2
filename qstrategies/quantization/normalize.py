"""A captured model -> a graph of forms (``operators/``), by observing two runs of it.

Nothing is decided from names where it can be seen. What is changed in place shows in a tensor's
version, an alias in its storage, what does nothing in its result; a number is the batch size, or
depends on it, if a run of two examples and one of three differ in it; a reshape is its result's
shape. What depends on no input (standardized or parametrized weights, functional layers) is
computed once, here, and is a parameter if it is made of one. Only then are operators asked whether
they know a call; what none knows stays in float.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from qstrategies.errors import InputError
from qstrategies.operators.base import shape_of
from qstrategies.operators.dropout import DROPOUTS
from qstrategies.operators.island import Float, Repeated
from qstrategies.quantization.call import FIRST_PARTS, SPLITS, Call, slices
from qstrategies.quantization.capture import Captured
from qstrategies.quantization.meanings import (
    RowPerExample,
    Stale,
    fixed,
    repeated_along,
    shape_over_batches,
)
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
from qstrategies.quantization.structure import as_container, mapped
from qstrategies.quantization.writes import is_whole, names_of, refuse_own_view, stale


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
    return Rebuild(captured, *facts).run(kept)


class Rebuild:
    """The new graph while it is made, and what each node of the old one means in it."""

    def __init__(self, captured: Captured, two: Facts, three: Facts) -> None:
        self.captured, self.two, self.three = captured, two, three
        self.root, self.graph = nn.Module(), fx.Graph()
        self.env: dict[fx.Node, Any] = {}
        self.varying: set[fx.Node] = set()
        self.trained: set[fx.Node] = set()

    def run(self, inputs: tuple[Tensor, ...]) -> Normalized:
        nodes = self.captured.module.graph.nodes
        for node in nodes:
            self._visit(node)
        end = self.captured.module.graph.output_node()
        outputs = self._outputs(end)
        for node in reversed(list(self.graph.nodes)):
            if not node.users and node.op == "call_module":
                self.graph.erase_node(node)
        module = fx.GraphModule(self.root, self.graph).eval()
        return Normalized(module, outputs, inputs, self.two[end].value)

    def _visit(self, node: fx.Node) -> None:
        fact, other = self.two[node], self.three[node].value
        reads_input = not self.varying.isdisjoint(self._read(node))
        if node.op == "placeholder":
            self.varying.add(node)
            self.env[node] = self._tagged(self.graph.placeholder(node.name), fact.value, other)
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
        """What depends on no input; numbers made of the batch size among it."""
        if holds_tensor(value) and not same(value, other):
            dim = repeated_along(value, other)
            if dim is not None:
                return RowPerExample(self._trained(node, value.narrow(dim, 0, 1)), dim)
            # what the input is written into later is known then, as it was before
            return Stale(f"{describe(node)} gives other values in every run: it cannot be exported")
        return fixed(self._trained(node, value), other)

    def _trained(self, node: fx.Node, value: Any) -> Any:
        """``value`` of ``node``, a parameter if it is computed from parameters that are trained."""
        sources: list[Any] = [value]
        if node.op == "call_module":
            sources = list(self.captured.module.get_submodule(str(node.target)).parameters())
        known = any(isinstance(each, nn.Parameter) and each.requires_grad for each in sources)
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
        return fixed(value, other)

    def _varying(self, node: fx.Node, fact: Fact, other: Any) -> None:
        written = fact.changed
        if written is not None and written not in self.varying and fact.before is not None:
            self.env[written] = self._constant(written, fact.before, self.three[node].before)
        if fact.changed is not None and fact.value is None:
            self._assignment(node, fact.changed)
        elif fact.same_as is not None and not self._may_do_more(node):
            self.env[node] = self.take(fact.same_as)
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
            return node.target in DROPOUTS
        module = self.captured.module.get_submodule(str(node.target))
        return node.target in self.captured.leaves or isinstance(
            module, nn.modules.dropout._DropoutNd
        )

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
        """Let every name of the tensor that ``node`` changed mean the new value; other views of it
        mean nothing any more."""
        for old in names_of(self.two, changed):
            if old is node or old not in self.env:
                continue
            self.varying.add(old)
            self.env[old] = self.env[node] if is_whole(self.two, old, changed) else stale(old, node)

    def _outputs(self, end: fx.Node) -> Any:
        values = self.take(end.args[0])

        def leaf(path: str, value: Any) -> Any:
            if isinstance(value, fx.Node) or value is None:
                return value
            raise InputError(
                f"output {path or 'of the model'} is {value!r:.60}, which does not depend on the "
                "input: leave it out"
            )

        outputs = mapped(values, leaf)
        nodes: list[fx.Node] = []
        mapped(outputs, lambda _, value: nodes.append(value) if value is not None else None)
        self.graph.output(tuple(nodes))
        return outputs

    def take(self, arguments: Any, *, broadcasts: bool = False) -> Any:
        """What the nodes in ``arguments`` stand for; with ``broadcasts``, a constant row stands for
        itself."""

        def one(node: fx.Node) -> Any:
            value = self.env[node]
            if isinstance(value, Stale):
                raise InputError(value.reason)
            if isinstance(value, RowPerExample):
                return value.row if broadcasts else self._repeated(node, value)
            return value

        return map_arg(arguments, one)

    def _repeated(self, node: fx.Node, value: RowPerExample) -> fx.Node:
        """``value`` for as many examples as the input has."""
        entry = next(
            each
            for each in self.graph.nodes
            if each.op == "placeholder" and shape_of(each)[:1] == (None,)
        )
        emitted = self.add(
            node.name,
            Float(Repeated(value.row, value.dim), "expand", "it is a constant for every example"),
            [entry],
        )
        sizes: list[int | None] = list(value.row.shape)
        sizes[value.dim] = None
        emitted.meta["shape"], emitted.meta["dtype"] = tuple(sizes), value.row.dtype
        self.env[node] = emitted
        return emitted

    def _tagged(self, node: fx.Node, value: Tensor, other: Tensor) -> fx.Node:
        node.meta["shape"] = shape_over_batches(value, other)
        node.meta["dtype"] = value.dtype
        return node

    def add(self, name: str, module: nn.Module, inputs: Sequence[fx.Node]) -> fx.Node:
        """Call ``module`` under ``name``, or a name like it that is still free."""
        free, number = name, 1
        while _taken(self.root, free):
            number += 1
            free = f"{name}_{number}"
        parent = self.root
        *outer, last = free.split(".")
        for each in outer:
            if each not in parent._modules:
                parent.add_module(each, nn.Module())
            parent = parent.get_submodule(each)
        parent.add_module(last, module)
        return self.graph.call_module(free, tuple(inputs))


def _taken(root: nn.Module, name: str) -> bool:
    """Whether ``name`` is that of a module, or of anything that modules have, as ``half``."""
    found: Any = root
    for each in name.split("."):
        if not hasattr(found, each):
            return False
        found = getattr(found, each)
    return True
