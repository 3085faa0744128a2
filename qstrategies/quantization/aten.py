"""Operators of ATen, which torch.export leaves in a graph, as the functions and methods of torch
that this package knows."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import fx
from torch.fx.node import map_arg
from torch.nn import functional

from qstrategies.operators import RECOGNIZERS
from qstrategies.quantization.call import SPLITS
from qstrategies.quantization.observe import QUERIES

OPERATOR = type(torch.ops.aten.relu.default)
OTHER_NAMES: dict[str, Any] = {
    "sym_size": "size",
    "_unsafe_view": "view",
    "split_with_sizes": torch.split,
    "slice": operator.getitem,
    "upsample_nearest2d": functional.interpolate,
}


def is_exported(module: Any) -> TypeGuard[fx.GraphModule]:
    """Whether ``module`` is a graph with operators of ATen in it."""
    if not isinstance(module, fx.GraphModule):
        return False
    return any(isinstance(node.target, OPERATOR) for node in module.graph.nodes)


def as_functions(exported: fx.GraphModule) -> fx.GraphModule:
    """``exported`` with functions and methods of torch in the place of operators, where there are
    any. Nodes keep their names."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in exported.graph.nodes:
        known = _known_as(node.target) if isinstance(node.target, OPERATOR) else None
        if known is None:
            copies[node] = graph.node_copy(node, copies.__getitem__)
        else:
            copies[node] = _spelled(graph, node, copies, known)
    return fx.GraphModule(exported, graph)


def _known_as(target: Any) -> Any:
    """The function, or the name of the method, that the operator ``target`` is; None for none."""
    namespace, name, _ = str(target).split(".")
    if namespace != "aten":
        return None
    if name in OTHER_NAMES:
        return OTHER_NAMES[name]
    for each in (name, name.removesuffix("_")):  # in place, or as if it were not
        spellings = [getattr(functional, each, None), getattr(torch, each, None), each]
        known = [spelling for spelling in spellings if _is_known(spelling)]
        if known:
            return known[0]
    return None


def _is_known(target: Any) -> bool:
    return target in RECOGNIZERS or target in SPLITS or target in QUERIES


def _spelled(graph: fx.Graph, node: fx.Node, copies: dict[fx.Node, fx.Node], known: Any) -> fx.Node:
    """The operator at ``node`` as a call of ``known``."""
    args, kwargs = map_arg((node.args, dict(node.kwargs)), copies.__getitem__)
    args = tuple(None if each == [] else each for each in args)  # nothing is said
    if known in ARRANGED:
        args = ARRANGED[known](*args)
    op = "call_method" if isinstance(known, str) else "call_function"
    return graph.create_node(op, known, args, kwargs, node.name)


def _batch_norm(x: Any, weight: Any, bias: Any, mean: Any, variance: Any, *rest: Any) -> Any:
    training, momentum, eps, *_ = rest
    return x, mean, variance, weight, bias, training, momentum, eps


def _slice(x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    part, whole = slice(start, end, step), slice(None)
    index = (*[whole] * dim, part) if dim >= 0 else (..., part, *[whole] * (-1 - dim))
    return x, index


ARRANGED: dict[Any, Callable[..., tuple[Any, ...]]] = {
    functional.batch_norm: _batch_norm,
    operator.getitem: _slice,
}
"""What takes its arguments in another order than the operator does."""
