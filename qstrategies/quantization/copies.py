"""A copy of a user's model, which shares nothing with it."""

from __future__ import annotations

import contextlib
import copy
import types
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from qstrategies.errors import InputError


def copy_of(model: nn.Module) -> nn.Module:
    """A deep copy. What a forward has kept of a training step is there without its history, which
    cannot be copied; hooks and functions that hold a part of the model hold that of the copy.

    Raises ``InputError`` for attributes that Python cannot copy.
    """
    kept = (each for module in model.modules() for each in _tensors_in(vars(module)))
    memo: dict[int, Any] = {id(each): each.detach().clone() for each in kept if not each.is_leaf}
    try:
        copied = copy.deepcopy(model, memo)
    except Exception as error:
        raise InputError(
            f"{type(model).__name__} cannot be copied ({error}): keep what cannot out of its "
            "attributes"
        ) from None
    for module in copied.modules():
        held: list[dict[Any, Any]] = [vars(module), module._forward_hooks]
        for each in (*held, module._forward_pre_hooks):
            each.update({name: _rebound(value, memo) for name, value in each.items()})
    return copied


def in_training(model: nn.Module) -> nn.Module:
    """``model`` as it is trained: what is in evaluation mode of a model in training mode is frozen,
    and what its own ``train()`` leaves in evaluation mode of any other. In place."""
    return model if model.training else model.train()


def _rebound(value: Any, memo: dict[int, Any]) -> Any:
    """A function, which Python does not copy, with copies in its closure of what ``memo`` knows;
    anything else is what ``memo`` has for it, or itself."""
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, types.MethodType):
        return types.MethodType(value.__func__, _rebound(value.__self__, memo))
    if not isinstance(value, types.FunctionType) or value.__closure__ is None:
        return value
    cells = tuple(_rebound_cell(cell, memo) for cell in value.__closure__)
    code, known = value.__code__, value.__globals__
    made = types.FunctionType(code, known, value.__name__, value.__defaults__, cells)
    made.__kwdefaults__ = value.__kwdefaults__
    return made


def _rebound_cell(cell: types.CellType, memo: dict[int, Any]) -> types.CellType:
    """One cell stays one for all functions that share it, which may hold each other."""
    if id(cell) not in memo:
        memo[id(cell)] = types.CellType()
        with contextlib.suppress(ValueError):  # it holds nothing yet
            memo[id(cell)].cell_contents = _rebound(cell.cell_contents, memo)
    rebound: types.CellType = memo[id(cell)]
    return rebound


def _tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in plain containers, however deep."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _tensors_in(each)
