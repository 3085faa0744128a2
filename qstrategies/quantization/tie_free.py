"""Does an integer graph keep what ``fixed_point.py`` promises? Node by node, before it is given
away."""

from __future__ import annotations

import functools
import math

from qstrategies.errors import InputError
from qstrategies.operators.addition import Addition
from qstrategies.operators.averages import AveragePool, Averaging, Summing
from qstrategies.operators.base import Node
from qstrategies.operators.island import Island
from qstrategies.operators.layer import Layer
from qstrategies.operators.product import Product
from qstrategies.quantization.integer_graph import IntegerGraph
from qstrategies.quantization.steps import FINEST_FIXED


def check_tie_free(graph: IntegerGraph) -> None:
    """Raise ``InputError``, with the name and the reason, if fixed-point kernels may round a node
    of ``graph`` apart."""
    for node in graph.nodes:
        reason = rounds_apart(node)
        if reason is not None:
            raise InputError(
                f"{node.name!r} has no fixed-point form: {reason}. Leave fixed_point out, or write "
                "the model without it"
            )


@functools.singledispatch
def rounds_apart(node: Node) -> str | None:
    """Why fixed-point kernels may round ``node`` each in its own way; None if they cannot."""
    return f"{type(node).__name__} is not known to round alike everywhere" if node.rounds else None


@rounds_apart.register
def _(node: Island) -> str:
    return f"it stays in float ({node.reason})"


@rounds_apart.register
def _(_: Product) -> str:
    return "ties of products are rounded by each kernel in its own way"


@rounds_apart.register
def _(_: Layer) -> None:
    return None  # whatever the power of two: it rounds no tie, or nothing


@rounds_apart.register
def _(node: Addition) -> str | None:
    operands, result = [spec.grid.scale for spec in node.inputs], node.output.grid.scale
    if min(operands) < result:
        return "the step of its result is coarser than an operand's"
    return None if result >= FINEST_FIXED * max(operands) else "its steps lie too far apart"


@rounds_apart.register
def _(node: AveragePool) -> str | None:
    return _of_count(math.prod(node.size))


@rounds_apart.register
def _(node: Averaging) -> str | None:
    shape = node.inputs[0].shape
    return _of_count(math.prod(shape[dim] or 0 for dim in node.dims))


@rounds_apart.register
def _(_: Summing) -> str:
    return "ties of sums are rounded by each kernel in its own way"


def _of_count(count: int) -> str | None:
    return None if count % 2 else f"a mean of {count} values ties"
