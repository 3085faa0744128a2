"""Token ids, which must be rows of the embeddings that read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx, nn
from torch.nn import functional

from qstrategies.errors import InputError
from qstrategies.operators.island import Float, FunctionCall
from qstrategies.quantization.exact_forms import module_at


def check_ids(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> None:
    """Raise ``InputError`` for an id among ``inputs`` that an embedding has no row for."""
    placeholders = graph.graph.find_nodes(op="placeholder")
    for node, tensor in zip(placeholders, inputs, strict=True):
        if tensor.is_floating_point() or not tensor.numel():
            continue
        for user in node.users:
            rows = _rows(module_at(graph, user))
            if rows is None:
                continue
            wrong = tensor[(tensor < 0) | (tensor >= rows)]
            if len(wrong):
                raise InputError(
                    f"input {node.name!r} holds the id {int(wrong[0])}: expected 0 to {rows - 1}, "
                    f"the rows of {str(user.target)!r}"
                )


def _rows(form: Any) -> int | None:
    """Of the embedding that ``form`` is; None if it is none."""
    inner = form.module if isinstance(form, Float) else None
    if isinstance(inner, nn.Embedding):
        return inner.num_embeddings
    if isinstance(inner, FunctionCall) and inner.target is functional.embedding:
        return len(getattr(inner, inner.constants[0]))
    return None
