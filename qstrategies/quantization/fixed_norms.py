"""Which functional batch normalizations use their statistics in training too: in evaluation, as
models are captured, all of them do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from qstrategies.quantization.copies import copy_of
from qstrategies.quantization.in_float import InFloat

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""The arguments of a call, by place and by name."""


def mark_fixed(graph: fx.Graph, captured: nn.Module, model: nn.Module, batch: Call) -> None:
    """Set ``stays_in_eval`` of the running means in ``captured`` that ``model`` normalizes by in
    training, as a call with ``batch`` shows. In place; ``graph`` says whether there are any to look
    for."""
    if not any(node.target is functional.batch_norm for node in graph.nodes):
        return
    trained = copy_of(model).cpu().float()
    for module in trained.modules():
        module.training = module.training or not model.training
    seen = _Normalized()
    args, kwargs = batch
    drawn = torch.random.fork_rng(devices=[])  # or Dropout would move what is drawn later
    with drawn, contextlib.suppress(Exception), InFloat(), seen:  # whatever a user's model raises
        trained(*args, **kwargs)
    for name, mean in (*trained.named_buffers(), *trained.named_parameters()):
        if id(mean) in seen.fixed:
            owner, _, last = name.rpartition(".")
            getattr(captured.get_submodule(owner), last).stays_in_eval = True


class _Normalized(TorchFunctionMode):
    """``fixed``: the running means by which batch normalizations, where it is entered, are told not
    to train."""

    def __init__(self) -> None:
        super().__init__()
        self.fixed: set[int] = set()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func is functional.batch_norm and not named.get("training"):
            self.fixed.add(id(args[1]))
        return func(*args, **named)
