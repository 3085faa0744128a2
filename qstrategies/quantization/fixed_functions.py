"""Which functional batch normalizations use their statistics in training too, and which functional
dropouts do nothing there: in evaluation, as models are captured, that is all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx, nn
from torch.nn import functional

from qstrategies.operators.dropout import DROPOUTS
from qstrategies.quantization.capture import user_line
from qstrategies.quantization.copies import copy_of, in_training
from qstrategies.quantization.in_float import InFloat
from qstrategies.quantization.structure import Filled
from qstrategies.quantization.trying import FunctionMode, unnoticed

OFF = "off"
"""In the meta of dropouts that do nothing in training."""


def mark_fixed(graph: fx.Graph, captured: nn.Module, model: nn.Module, batch: Filled) -> None:
    """Set ``stays_in_eval`` of the running means in ``captured`` that ``model`` normalizes by in
    training, and ``OFF`` of the dropouts in ``graph`` that do nothing there, as a call with
    ``batch`` shows. In place."""
    dropouts = [node for node in graph.nodes if node.target in DROPOUTS]
    if not (dropouts or any(node.target is functional.batch_norm for node in graph.nodes)):
        return
    trained = in_training(copy_of(model)).cpu().float()
    seen = _Told()
    args, kwargs = batch
    with unnoticed(), InFloat(), seen:
        trained(*args, **kwargs)
    for name, mean in (*trained.named_buffers(), *trained.named_parameters()):
        if id(mean) in seen.fixed:
            owner, _, last = name.rpartition(".")
            getattr(captured.get_submodule(owner), last).stays_in_eval = True
    for node in dropouts:
        if not any(seen.dropped.get(node.meta["line"], [True])):
            node.meta[OFF] = True


class _Told(FunctionMode):
    """``fixed``: the running means by which batch normalizations, where it is entered, are told not
    to train; ``dropped``: whether dropouts are told to, by the line of the user's that calls."""

    def __init__(self) -> None:
        super().__init__()
        self.fixed: set[int] = set()
        self.dropped: dict[str, list[bool]] = {}

    def called(
        self, function: Callable[..., Any], args: Sequence[Any], named: dict[str, Any]
    ) -> Any:
        if function is functional.batch_norm and not named.get("training"):
            self.fixed.add(id(args[1]))
        if function in DROPOUTS:
            told = args[2] if len(args) > 2 else True
            told = named.get("training", named.get("train", told))
            self.dropped.setdefault(user_line(), []).append(bool(told))
        return function(*args, **named)
