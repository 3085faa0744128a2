"""Modules that in training multiply what they are given by drawn numbers, and in evaluation give it
back: stochastic depth. A capture in evaluation does not see them."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch
from torch import Tensor, nn

from qstrategies.quantization.in_float import InFloat

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""The arguments of a call, by place and by name."""


def scattering(model: nn.Module, batch: Call) -> set[str]:
    """The names of such modules in ``model``, which is in evaluation mode, as a call with ``batch``
    shows."""
    names = [name for name, module in model.named_modules() if name and _may(module)]
    if not names:
        return set()
    copied = copy.deepcopy(model)
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    versions: dict[str, int | None] = {}
    returned = dict.fromkeys(names, True)

    def looking(name: str) -> Any:
        def look(_: nn.Module, args: Any) -> None:
            given = args[0] if len(args) == 1 else None
            seen[name] += [given.clone()] if isinstance(given, Tensor) else []
            versions[name] = given._version if isinstance(given, Tensor) else None

        return look

    def looking_back(name: str) -> Any:
        def look(_: nn.Module, args: Any, result: Any) -> None:
            same = versions[name] is not None and result is args[0]
            returned[name] &= same and result._version == versions[name]

        return look

    for name in names:
        copied.get_submodule(name).register_forward_pre_hook(looking(name))
        copied.get_submodule(name).register_forward_hook(looking_back(name))
    args, kwargs = batch
    with torch.no_grad(), _unnoticed(), InFloat():
        copied(*args, **kwargs)
    found = (name for name in names if seen[name] and returned[name])
    return {name for name in found if _scatters(model.get_submodule(name), seen[name][0])}


def _may(module: nn.Module) -> bool:
    """Whether ``module`` is of the user's own and computes by itself, without parameters."""
    own = not type(module).__module__.startswith("torch.nn")
    return own and not [*module.children(), *module.parameters()]


def _scatters(module: nn.Module, x: Tensor) -> bool:
    """Whether ``module`` multiplies the elements of ``x`` by drawn numbers, none negative."""

    def trained(given: Tensor) -> Any:
        torch.manual_seed(0)
        return copy.deepcopy(module).train()(given)

    results: list[Any] = []
    with torch.no_grad(), _unnoticed():
        same = x.clone()
        results = [trained(same), trained(2 * x)]
        idle = results[0] is same and same._version == 0
        once, twice = results
        linear = once.shape == x.shape and torch.allclose(twice, 2 * once)
        return not idle and linear and bool((once * x >= 0).all())
    return False


@contextlib.contextmanager
def _unnoticed() -> Any:
    """Whatever a user's model raises inside, and what it draws, is not noticed outside."""
    with torch.random.fork_rng(devices=[]), contextlib.suppress(Exception):
        yield
