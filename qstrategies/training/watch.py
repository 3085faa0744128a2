"""What a training loop of somebody else's did: which of its calls of the model gave some outputs,
and whether its optimizer moves the model."""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qstrategies.errors import InputError
from qstrategies.quantization.structure import leaves

Inputs = tuple[Tensor, ...]


class Calls:
    """A forward hook that remembers for which inputs a model gave its outputs.

    ``open`` are the calls whose outputs are alive and that nobody has answered yet; ``count`` is
    the number of calls with gradients since the last answer. Of calls without gradients only the
    last is known.
    """

    def __init__(self) -> None:
        self.open: list[tuple[list[weakref.ref[Tensor]], Inputs]] = []
        self.count = 0
        self.evaluated: Inputs | None = None
        self._listens = True

    def __call__(self, _: nn.Module, args: Any, kwargs: Mapping[str, Any], outputs: Any) -> None:
        if not self._listens:
            return
        inputs = tuple(_tensors([*args, *kwargs.values()]))
        if not torch.is_grad_enabled():
            self.evaluated = inputs
            return
        alive = [call for call in self.open if any(given() is not None for given in call[0])]
        self.open = [*alive, ([weakref.ref(each) for each in _tensors(outputs)], inputs)]
        self.count += 1

    def inputs_of(self, outputs: Any) -> Inputs:
        """The inputs of the call that gave ``outputs``.

        Where ``outputs`` were converted since, they are of the only call that there was.

        Raises:
            InputError: no such call, or several that it may have been.
        """
        if not torch.is_grad_enabled() and self.evaluated is not None:
            return self.evaluated
        if not self.open:
            raise InputError(
                "the penalty follows a call of trainee.model, one penalty for one call: call "
                "trainee.model first, or give penalty(outputs, inputs=...)"
            )
        wanted = {id(each) for each in _tensors(outputs)}
        found = [call for call in self.open if any(id(given()) in wanted for given in call[0])]
        if not found and self.count > 1:
            raise InputError(
                f"{self.count} calls of trainee.model, and the outputs are not what one of them "
                "gave: give penalty(outputs, inputs=...)"
            )
        return (found or self.open)[-1][1]

    def answered(self, inputs: Inputs) -> None:
        """The call with ``inputs`` is done with."""
        self.open = [call for call in self.open if call[1] is not inputs]
        self.count = len(self.open)

    def forget(self) -> None:
        """A step is over."""
        self.open, self.count = [], 0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is called inside is not the user's call."""
        self._listens = False
        try:
            yield
        finally:
            self._listens = True


def _tensors(value: Any) -> list[Tensor]:
    return [each for _, each in leaves(value) if isinstance(each, Tensor)]


class Untouched:
    """The trainable parameters of ``model`` as they are now, until something moves them.

    Values are compared, as fused optimizers and those that write to ``.data`` leave no other trace.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._found = [(each, each._version, each.detach().clone()) for each in trainable(model)]

    def error(self) -> InputError:
        """What to say where training has not moved them."""
        return InputError(
            f"none of the {len(self._found)} parameters of trainee.model was moved by the "
            "optimizer: make it of trainee.parameter_groups(rate)"
        )

    def still(self) -> bool:
        """Whether the model has the same parameters, and nothing has written to one of them."""
        now = {id(each) for each in trainable(self._model)}
        same = now == {id(each) for each, _, _ in self._found}
        return same and bool(now) and not any(map(_written, self._found))

    def pulled(self) -> bool:
        """Whether they have gradients that would move them: finite ones that are not all zero."""
        found = [each.grad for each, _, _ in self._found if each.grad is not None]
        size = sum(float(each.abs().sum(dtype=torch.float64)) for each in found)
        return 0 < size < math.inf


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of ``model`` that are not frozen."""
    return [each for each in model.parameters() if each.requires_grad]


def _written(kept: tuple[nn.Parameter, int, Tensor]) -> bool:
    parameter, version, before = kept
    return parameter._version != version or not torch.equal(parameter.detach().to(before), before)
