"""What stands for tensors and sizes while a forward is traced."""

from __future__ import annotations

import builtins
import contextlib
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.distributions import Distribution

TAKE_SIZES: dict[Any, tuple[str, ...]] = {
    torch: ("zeros", "ones", "empty", "rand", "randn", "eye", "full", "tensor", "as_tensor"),
    torch.Tensor: ("expand", "view", "reshape", "repeat", "tile", "new_zeros", "new_ones"),
}
"""What takes sizes one by one and does not ask them whether they are proxies; the methods are those
of a tensor that depends on no input."""


ARITHMETIC = {
    np.add: operator.add,
    np.subtract: operator.sub,
    np.multiply: operator.mul,
    np.true_divide: operator.truediv,
}


class SizedProxy(fx.Proxy):
    """A proxy whose numbers are known where they follow from the example's sizes, and whose
    ``x += y`` is recorded as what it is: a change in place, for every name of ``x``."""

    def __array_ufunc__(self, ufunc: Any, _: str, *inputs: Any, **settings: Any) -> Any:
        """What NumPy makes of numbers, and of a number of its own and this."""
        known = ARITHMETIC.get(ufunc)
        if known is not None:
            return known(
                *(each.item() if isinstance(each, np.generic) else each for each in inputs)
            )
        numbers = (each._number() if isinstance(each, SizedProxy) else each for each in inputs)
        return ufunc(*numbers, **settings)

    def __getattr__(self, k: str) -> Any:
        if k.startswith("__") and k.endswith("__"):  # protocols that it does not follow
            raise AttributeError(k)
        attribute = SizedAttribute(self, k)
        if k not in ("device", "dtype"):
            return attribute
        with contextlib.suppress(fx.proxy.TraceError):  # traced alone
            return self.tracer.concrete_value(attribute.node)  # type: ignore[attr-defined]
        return attribute

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

    def __round__(self, digits: int | None = None) -> Any:
        return round(self._number(), digits)

    def __trunc__(self) -> int:
        return math.trunc(self._number())

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


class SizedAttribute(fx.proxy.Attribute, SizedProxy):
    """An attribute, which may be a number or sizes."""


class InputProxy(SizedProxy):
    """An input of the model, which its forward may ask whether it is a tensor. Its class does not
    say so: torch's compiled functions would look for a tensor's memory behind it."""


@contextlib.contextmanager
def sizes_may_be_proxies() -> Iterator[None]:
    """Let inputs be tensors, ``len`` of a batch and calls of ``TAKE_SIZES`` with proxies among
    their sizes be nodes of the graph, and distributions not look at the values they are given."""
    own = [(owner, name) for owner, names in TAKE_SIZES.items() for name in names]
    before = {each: vars(each[0]).get(each[1]) for each in own}
    for owner, name in own:
        setattr(owner, name, _recording(owner, name))
    np.prod, SCRIPTED.__call__ = _product, _as_written
    builtins.len, builtins.isinstance = _length, _is_instance
    validates = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        np.prod, SCRIPTED.__call__ = _prod, _scripted
        builtins.len, builtins.isinstance = _len, _isinstance
        Distribution.set_default_validate_args(validates)
        for (owner, name), known in before.items():
            if known is None:
                delattr(owner, name)  # it is inherited
            else:
                setattr(owner, name, known)


@contextlib.contextmanager
def own_attributes(root: Any) -> Iterator[None]:
    """Give every module in ``root`` back the buffers and attributes that a forward may set, and
    what its own lists and dicts held."""
    before = [(each, vars(each).copy(), each._buffers.copy()) for each in root.modules()]
    held = [(each, each.copy()) for module in root.modules() for each in containers(module)]
    try:
        yield
    finally:
        for module, attributes, buffers in before:
            vars(module).update(attributes)
            module._buffers.update(buffers)
        for container, content in held:
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(content)


def containers(module: nn.Module) -> list[Any]:
    """The lists, dicts and sets that are attributes of ``module`` and not torch's."""
    own = vars(module).keys() - vars(nn.Module()).keys()
    return [vars(module)[name] for name in own if type(vars(module)[name]) in (dict, list, set)]


def _recording(owner: Any, name: str) -> Callable[..., Any]:
    """``owner.name``, a node of the graph where a size is a proxy."""
    original = getattr(owner, name)
    op, target = ("call_function", original) if owner is torch else ("call_method", name)

    def called(*args: Any, **kwargs: Any) -> Any:
        sizes = _proxies((args, kwargs))
        return (
            sizes[0].tracer.create_proxy(op, target, args, kwargs)
            if sizes
            else original(*args, **kwargs)
        )

    return called


def _proxies(value: Any) -> list[fx.Proxy]:
    found: list[Any] = []
    fx.node.map_aggregate(value, found.append)
    return [each for each in found if isinstance(each, fx.Proxy)]


SCRIPTED: Any = torch.jit.ScriptFunction
_prod: Any = np.prod
_len: Any = len
_isinstance: Any = isinstance
_scripted: Any = SCRIPTED.__call__


def _is_instance(value: Any, kind: Any) -> bool:
    """``isinstance``, for which inputs of the model are tensors."""
    if type(value) is InputProxy and issubclass(torch.Tensor, kind):
        return True
    found: bool = _isinstance(value, kind)
    return found


def _length(of: Any) -> Any:
    """``len``; that of a batch is a node of the graph, and so need not be an int."""
    if not issubclass(type(of), fx.Proxy):
        return _len(of)
    with contextlib.suppress(fx.proxy.TraceError):
        return of.tracer.count(of.node)
    return of.tracer.create_proxy("call_function", _len, (of,), {})


def _product(a: Any, *args: Any, **kwargs: Any) -> Any:
    """``np.prod``, of sizes too."""
    return math.prod(a) if _proxies(a) else _prod(a, *args, **kwargs)


def _as_written(function: Any, *args: Any, **kwargs: Any) -> Any:
    """A function that TorchScript was made of, where that is given proxies."""
    written = getattr(function, "_torchdynamo_inline", None)
    if written is None or not _proxies((args, kwargs)):
        return _scripted(function, *args, **kwargs)
    return written(*args, **kwargs)
