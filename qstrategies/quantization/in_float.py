"""Models of half precision are computed in float32, their own casts included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from qstrategies.quantization.trying import FunctionMode

HALVES = (torch.float16, torch.bfloat16)
CASTS: dict[Any, Any] = {
    **dict.fromkeys(("half", "bfloat16"), "float"),
    **dict.fromkeys((Tensor.half, Tensor.bfloat16), Tensor.float),
}


def let_in_float(graph: fx.Graph) -> None:
    """Let every cast to half precision in ``graph`` be one to float32. In place."""
    for node in graph.nodes:
        node.args, node.kwargs = fx.node.map_aggregate((node.args, node.kwargs), _wide)
        node.target = CASTS.get(node.target, node.target)


def _wide(value: Any) -> Any:
    return torch.float32 if isinstance(value, torch.dtype) and value in HALVES else value


class InFloat(FunctionMode):
    """Where it is entered, so is what is called."""

    def called(
        self, function: Callable[..., Any], args: Sequence[Any], named: dict[str, Any]
    ) -> Any:
        wide = {name: _wide(each) for name, each in named.items()}
        return CASTS.get(function, function)(*map(_wide, args), **wide)
