"""Float islands: parts that have no exact integer form. They compute in float between a
dequantization and a quantization."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from qstrategies.errors import InputError, first_line
from qstrategies.operators.base import (
    FORMS,
    Array,
    Form,
    Kernel,
    Node,
    Placing,
    Site,
    Writer,
    requantized,
)
from qstrategies.operators.batch_number import with_count
from qstrategies.operators.drawing import Applied, Sizes, draws
from qstrategies.operators.layer import own_parameter

BESIDE_FLOAT = "all that it reads is in float"
ONLY_DIVIDES = "it only divides what is in float"


class Float(nn.Module):
    """``module`` of the user's, or a call of one function, left in float; ``reason`` says why.

    It takes factors over: input ``number`` comes ``reads[number]`` times, and the result is wanted
    ``gives`` times as large.
    """

    def __init__(self, module: nn.Module, name: str, reason: str) -> None:
        super().__init__()
        self.module, self.name, self.reason = module, name, reason
        self.reads: dict[int, float] = {}
        self.gives = 1.0

    def forward(self, *tensors: Tensor) -> Tensor:
        # contiguous, as the user's has seen to by a call that changes no value
        given = (
            (tensor / self.reads[number] if number in self.reads else tensor).contiguous()
            for number, tensor in enumerate(tensors)
        )
        result: Tensor = self.module(*given)
        return result if self.gives == 1 else result * self.gives


class Part(nn.Module):
    """One of the several results of ``module``."""

    def __init__(self, module: nn.Module, place: Any) -> None:
        super().__init__()
        self.module, self.place = module, place

    def forward(self, *tensors: Tensor) -> Any:
        several = self.module(*tensors)
        by_name = dataclasses.is_dataclass(several)
        return getattr(several, self.place) if by_name else several[self.place]


class OnCopies(nn.Module):
    """``module``, which changes what it is given in place, on copies of that."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *tensors: Tensor) -> Any:
        return self.module(*(tensor.clone() for tensor in tensors))


class Repeated(nn.Module):
    """``row`` once for every example of the tensor that it is given, along ``dim``; trained if it
    is a parameter."""

    row: Tensor

    def __init__(self, row: Tensor, dim: int) -> None:
        super().__init__()
        self.dim = dim
        hold(self, "row", row)

    def forward(self, x: Tensor) -> Tensor:
        before, after = self.row.shape[: self.dim], self.row.shape[self.dim + 1 :]
        return self.row.expand(*before, x.shape[0], *after).contiguous()  # a view may follow


class FunctionCall(nn.Module):
    """A function or method with its arguments; the graph's nodes among them are the inputs, in
    their order, and parameters are trained. ``counted``: which input has a row per example, where
    arguments depend on how many there are."""

    def __init__(
        self,
        target: Any,
        args: Any,
        kwargs: Any,
        tensors: list[fx.Node],
        counted: fx.Node | None = None,
    ) -> None:
        super().__init__()
        self.target = target
        self.constants: list[str] = []
        self.counted = None if counted is None else tensors.index(counted)

        def kept(value: Any) -> Any:
            if isinstance(value, fx.Node):
                return _Place(tensors.index(value))
            if not isinstance(value, Tensor):
                return value
            self.constants.append(f"constant_{len(self.constants)}")
            hold(self, self.constants[-1], value)
            return _Place(len(tensors) + len(self.constants) - 1)

        self.arguments = fx.node.map_aggregate((args, kwargs), kept)

    def forward(self, *tensors: Tensor) -> Any:
        constants = [getattr(self, name) for name in self.constants]
        arguments = self.arguments
        if self.counted is not None:
            arguments = with_count(arguments, tensors[self.counted].shape[0])
        args, kwargs = _filled(arguments, (*tensors, *constants))
        if isinstance(self.target, str):
            return getattr(args[0], self.target)(*args[1:], **kwargs)
        return self.target(*args, **kwargs)


@dataclass(frozen=True)
class _Place:
    index: int


def hold(module: nn.Module, name: str, value: Tensor) -> None:
    """Let ``module`` have a copy of ``value``: a parameter of its own if that is one."""
    if isinstance(value, nn.Parameter):
        module.register_parameter(name, own_parameter(value))
    else:
        module.register_buffer(name, value.clone(), persistent=False)


def _filled(value: Any, tensors: tuple[Tensor, ...]) -> Any:
    if isinstance(value, _Place):
        return tensors[value.index]
    if isinstance(value, tuple | list):
        kind = list if isinstance(value, list) else tuple
        return kind(_filled(each, tensors) for each in value)
    if isinstance(value, slice):
        return slice(*_filled((value.start, value.stop, value.step), tensors))
    if isinstance(value, dict):
        return {name: _filled(each, tensors) for name, each in value.items()}
    return value


@dataclass(frozen=True, eq=False, kw_only=True)
class Island(Node):
    """``module`` takes and gives real tensors; ``size``: bytes of its parameters."""

    module: Any
    reason: str
    size: int

    @property
    def rounds(self) -> bool:  # type: ignore[override]
        return self.output.quantizer is not None

    @torch.no_grad()
    def integers(self, *inputs: Array) -> Array:
        tensors = []
        for x, spec in zip(inputs, self.inputs, strict=True):
            tensor = torch.from_numpy(np.ascontiguousarray(x))
            tensors.append(tensor if spec.quantizer is None else spec.quantizer.dequantize(tensor))
        y = self.reals(*tensors)
        return (y if self.output.quantizer is None else self.output.quantizer.quantize(y)).numpy()

    def reals(self, *tensors: Tensor) -> Tensor:
        """Raises ``InputError`` where the module fails, as for an index that is out of range."""
        own = [tensor.contiguous() for tensor in tensors]  # float kernels round by memory layout
        try:
            y: Tensor = self.module(*own)
        except Exception as error:  # whatever somebody's module raises
            reason = f"{self.name!r} fails on these inputs: {first_line(error)}"
            raise InputError(f"{reason}; give some that the model takes") from None
        return y

    def kernel(self, engine: str) -> Kernel | None:
        grid = self.output.quantizer

        def run(*tensors: Tensor) -> Tensor:
            y = self.reals(*(x.dequantize() if x.is_quantized else x for x in tensors))
            return y if grid is None else requantized(y, grid)

        return run

    def write(self, to: Writer) -> None:
        to.island(self, self.module)


def island(site: Site, reason: str) -> Island:
    """The node of a module that stays in float."""
    size = sum(each.numel() * each.element_size() for each in site.module.parameters())
    return Island(**site.ends, module=site.module, reason=reason, size=size)


FORMS[Float] = Form(placing=Placing.FLOAT, node=lambda site: island(site, site.module.reason))


@draws(exact=False)
def _draw(random: Random, shape: Sizes) -> nn.Module:
    return random.choice((nn.Softmax(1), nn.LayerNorm(shape[-1]), Applied("softmax", -1)))


class _Zeroed(nn.Module):
    """The first channel becomes 0, in place."""

    def forward(self, x: Tensor) -> Tensor:
        x[:, 0] = 0
        return x


@draws(exact=False)
def _draw_assignment(random: Random, _: Sizes) -> nn.Module:
    return _Zeroed()
