"""A graph of forms while it is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx, nn

from qstrategies.errors import InputError
from qstrategies.operators.base import shape_of
from qstrategies.operators.island import Float, Repeated
from qstrategies.quantization.meanings import RowPerExample, shape_over_batches
from qstrategies.quantization.structure import mapped


class NewGraph:
    """Every node of ``graph`` calls a form, which ``root`` holds."""

    def __init__(self) -> None:
        self.root, self.graph = nn.Module(), fx.Graph()

    @property
    def entry(self) -> fx.Node:
        """An input with one row per example."""
        return next(
            each
            for each in self.graph.nodes
            if each.op == "placeholder" and shape_of(each)[:1] == (None,)
        )

    def placeholder(self, name: str, value: Tensor, other: Tensor) -> fx.Node:
        """An input, which was ``value`` and ``other`` in the two runs."""
        node = self.graph.placeholder(name)
        node.meta["shape"] = shape_over_batches(value, other)
        node.meta["dtype"] = value.dtype
        return node

    def repeated(self, name: str, value: RowPerExample) -> fx.Node:
        """``value`` for as many examples as the input has."""
        reason = "it is a constant for every example"
        form = Float(Repeated(value.row, value.dim), "expand", reason)
        node = self.add(name, form, [self.entry])
        sizes: list[int | None] = list(value.row.shape)
        sizes[value.dim] = None
        node.meta["shape"], node.meta["dtype"] = tuple(sizes), value.row.dtype
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

    def end(self, values: Any) -> Any:
        """Return ``values``, nodes in a structure. Raises ``InputError`` for what is no node."""

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

    def module(self) -> fx.GraphModule:
        """The graph without what nothing reads."""
        for node in reversed(list(self.graph.nodes)):
            if not node.users and node.op == "call_module":
                self.graph.erase_node(node)
        return fx.GraphModule(self.root, self.graph).eval()


def _taken(root: nn.Module, name: str) -> bool:
    """Whether ``name`` is that of a module, or of anything that modules have, as ``half``."""
    found: Any = root
    for each in name.split("."):
        if not hasattr(found, each):
            return False
        found = getattr(found, each)
    return True
