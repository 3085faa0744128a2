"""Where the forward of a model lets no gradient pass: what is computed without them, and what takes
only the values of a tensor."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx

from qstrategies.quantization.observe import Fact, Facts

DETACHES: set[Any] = {"detach", torch.detach}
WITHOUT = "without_gradients"
"""In the meta of the nodes that are computed without."""


def is_without_gradients() -> bool:
    """Whether what is computed now is so without gradients, and not because the forward of a
    ``torch.autograd.Function`` always is."""
    frame: FrameType | None = None if torch.is_grad_enabled() else sys._getframe()
    found = frame is not None
    while frame is not None:
        found &= frame.f_code is not torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]
        frame = frame.f_back
    return found


def values_detached(graph: fx.Graph) -> None:
    """Let ``x.data`` be ``x.detach()`` in ``graph``. In place."""
    for node in graph.nodes:
        if node.target is getattr and node.args[1:] == ("data",):
            node.op, node.target, node.args = "call_method", "detach", node.args[:1]


def stop_gradients(graph: fx.Graph, runs: Sequence[Facts]) -> None:
    """Let ``graph`` detach the tensors that are computed without gradients, where they are read
    with them. In place; so are ``runs`` of it."""
    for node in list(graph.nodes):
        readers = {user for user in node.users if WITHOUT not in user.meta}
        if WITHOUT not in node.meta or not readers or not isinstance(runs[0][node].value, Tensor):
            continue
        with graph.inserting_after(node):
            detached = graph.call_method("detach", (node,))
        node.replace_all_uses_with(detached, delete_user_cb=readers.__contains__)
        for facts in runs:
            facts[detached] = Fact(facts[node].value.detach(), same_as=node)
