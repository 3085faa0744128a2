"""Modules that in training multiply what they are given by drawn numbers, and in evaluation give it
back: stochastic depth. A capture in evaluation does not see them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from qstrategies.quantization.copies import copy_of
from qstrategies.quantization.in_float import InFloat
from qstrategies.quantization.structure import Filled
from qstrategies.quantization.trying import unnoticed


def scattering(model: nn.Module, batch: Filled) -> set[str]:
    """The names of such modules in ``model``, which is in evaluation mode, as a call with ``batch``
    shows."""
    names = [name for name, module in model.named_modules() if name and _may(module)]
    if not names:
        return set()
    copied = copy_of(model)
    looks = {name: _Look(copied.get_submodule(name)) for name in names}
    args, kwargs = batch
    with torch.no_grad(), unnoticed(), InFloat():
        copied(*args, **kwargs)
    returned = {name: look.first for name, look in looks.items() if look.returns}
    return {
        name
        for name, first in returned.items()
        if first is not None and _scatters(model.get_submodule(name), first)
    }


def _may(module: nn.Module) -> bool:
    """Whether ``module`` is of the user's own and computes by itself, without parameters."""
    own = not type(module).__module__.startswith("torch.nn")
    return own and not [*module.children(), *module.parameters()]


class _Look:
    """What ``module`` is given: the ``first`` tensor, and whether each call ``returns`` the only
    one that it gets, as it was."""

    def __init__(self, module: nn.Module) -> None:
        self.first: Tensor | None = None
        self.version, self.returns = 0, True
        module.register_forward_pre_hook(self._before)
        module.register_forward_hook(self._after)

    def _before(self, _: nn.Module, args: Any) -> None:
        if len(args) != 1 or not isinstance(args[0], Tensor):
            self.returns = False
            return
        self.version = args[0]._version
        if self.first is None:
            self.first = args[0].clone()

    def _after(self, _: nn.Module, args: Any, result: Any) -> None:
        self.returns = self.returns and result is args[0] and result._version == self.version


def _scatters(module: nn.Module, x: Tensor) -> bool:
    """Whether ``module`` multiplies the elements of ``x`` by drawn numbers, none negative."""

    def trained(given: Tensor) -> Any:
        torch.manual_seed(0)
        return copy.deepcopy(module).train()(given)

    with torch.no_grad(), unnoticed():
        same = x.clone()
        once, twice = trained(same), trained(2 * x)
        idle = once is same and same._version == 0
        linear = once.shape == x.shape and torch.allclose(twice, 2 * once)
        return not idle and linear and bool((once * x >= 0).all())
    return False  # it cannot be called so
