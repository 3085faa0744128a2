"""What stands for tensors and sizes while a forward is traced."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx

TAKE_SIZES: dict[Any, tuple[str, ...]] = {
    torch: ("zeros", "ones", "empty", "rand", "randn", "eye"),
    torch.Tensor: ("expand", "view", "reshape", "repeat", "tile", "new_zeros", "new_ones"),
}
"""What takes sizes one by one and does not ask them whether they are proxies; the methods are those
of a tensor that depends on no input."""


class SizedProxy(fx.Proxy):
    """A proxy whose numbers are known where they follow from the example's sizes, and whose
    ``x += y`` is recorded as what it is: a change in place, for every name of ``x``."""

    def _number(self) -> Any:
        return self.tracer.concrete_value(self.node)  # type: ignore[attr-defined]

    def __index__(self) -> int:
        return operator.index(self._number())

    def __len__(self) -> int:
        parts: int = self.tracer.count(self.node)  # type: ignore[attr-defined]
        return parts

    def __int__(self) -> int:
        return int(self._number())

    def __float__(self) -> float:
        return float(self._number())

    def __ceil__(self) -> int:
        return math.ceil(self._number())

    def __floor__(self) -> int:
        return math.floor(self._number())

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.iadd, other)

    def __isub__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.isub, other)

    def __imul__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.imul, other)

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.itruediv, other)

    def _in_place(self, function: Any, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})


@contextmanager
def sizes_may_be_proxies() -> Iterator[None]:
    """Let calls of ``TAKE_SIZES`` with proxies among their sizes be nodes of the graph."""
    own = [(owner, name) for owner, names in TAKE_SIZES.items() for name in names]
    before = {each: vars(each[0]).get(each[1]) for each in own}
    for owner, name in own:
        setattr(owner, name, _recording(owner, name))
    try:
        yield
    finally:
        for (owner, name), known in before.items():
            if known is None:
                delattr(owner, name)  # it is inherited
            else:
                setattr(owner, name, known)


@contextmanager
def own_attributes(root: Any) -> Iterator[None]:
    """Give every module in ``root`` back the buffers and attributes that a forward may set."""
    before = [(each, vars(each).copy(), each._buffers.copy()) for each in root.modules()]
    try:
        yield
    finally:
        for module, attributes, buffers in before:
            vars(module).update(attributes)
            module._buffers.update(buffers)


def _recording(owner: Any, name: str) -> Callable[..., Any]:
    """``owner.name``, a node of the graph where a size is a proxy."""
    original = getattr(owner, name)
    op, target = ("call_function", original) if owner is torch else ("call_method", name)

    def called(*args: Any, **kwargs: Any) -> Any:
        sizes = [each for each in args if isinstance(each, fx.Proxy)]
        return (
            sizes[0].tracer.create_proxy(op, target, args, kwargs)
            if sizes
            else original(*args, **kwargs)
        )

    return called
