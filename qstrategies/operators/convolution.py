"""Convolutions and transposed convolutions in one to three dimensions."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from qstrategies.operators.arithmetic import centered, padded, products, window_count, windows
from qstrategies.operators.base import (
    FORMS,
    Array,
    Call,
    Form,
    Kernel,
    Placing,
    Site,
    Writer,
    per_dimension,
    recognizes,
    shape_of,
)
from qstrategies.operators.drawing import Applied, Sizes, draws, happens, several
from qstrategies.operators.layer import Layer, layer_fields, own_copy
from qstrategies.operators.movement import Slice
from qstrategies.operators.padding import Pad

CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def is_transposed(layer: Any) -> bool:
    """Whether ``layer`` is a transposed convolution, whose weight has its inputs first."""
    return isinstance(layer, tuple(TRANSPOSED.values()))


@dataclass(frozen=True, eq=False, kw_only=True)
class Convolution(Layer):
    """One number per dimension of the image for ``stride``, ``padding`` (on both sides) and
    ``dilation``."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def dimensions(self) -> int:
        """Of the image."""
        return len(self.stride)

    def integers(self, *inputs: Array) -> Array:
        x = centered(inputs[0], self.inputs[0].grid)
        weight = self.rounded_layer.weight.astype(np.float64)
        kernel = weight.shape[2:]
        geometry = zip(x.shape[2:], kernel, self.stride, self.padding, self.dilation, strict=True)
        counts = [window_count(*each) for each in geometry]
        total = np.zeros((len(x), len(weight), *counts))
        places = windows(padded(x, self.padding), kernel, self.stride, self.dilation, counts)
        for place, window in places:
            total += products(window, weight[(slice(None), slice(None), *place)], self.groups)
        return self.finish(total)

    def reals(self, *tensors: Tensor) -> Tensor:
        function: Any = getattr(functional, f"conv{self.dimensions}d")
        y: Tensor = function(*tensors, self.stride, self.padding, self.dilation, self.groups)
        return y.relu() if self.relu else y

    def kernel(self, engine: str) -> Kernel | None:
        if engine in ("onednn", "x86") and self._has_empty_windows:
            return None  # oneDNN gives anything at all where a zero point is padded
        prepack = getattr(torch.ops.quantized, f"conv{self.dimensions}d_prepack")
        geometry = (list(self.stride), list(self.padding), list(self.dilation), self.groups)
        packed = prepack(self.packed_weight(), self.packed_bias(), *geometry)
        name = f"conv{self.dimensions}d" + ("_relu" if self.relu else "")
        function = getattr(torch.ops.quantized, name)
        grid = self.output.grid
        return lambda x: function(x, packed, grid.scale, grid.zero_point)

    @property
    def _has_empty_windows(self) -> bool:
        """Whether all that some windows read is padding."""
        sizes, kernel = self.inputs[0].shape[2:], self.rounded_layer.weight.shape[2:]
        geometry = zip(sizes, kernel, self.stride, self.padding, self.dilation, strict=True)
        return any(size is None or _misses(size, *each) for size, *each in geometry)

    @property
    def attributes(self) -> dict[str, Any]:
        """Of the ONNX operator."""
        return {
            "kernel_shape": self.rounded_layer.weight.shape[2:],
            "strides": self.stride,
            "pads": (*self.padding, *self.padding),
            "dilations": self.dilation,
            "group": self.groups,
        }

    def write(self, to: Writer) -> None:
        self.write_layer(to, "Conv", **self.attributes)


def _misses(size: int, kernel: int, stride: int, padding: int, dilation: int) -> bool:
    """Whether a window reads none of ``size`` values between their padding."""
    starts = range(-padding, size + padding - dilation * (kernel - 1), stride)
    reads = (range(start, start + dilation * kernel, dilation) for start in starts)
    return any(not any(0 <= place < size for place in each) for each in reads)


@dataclass(frozen=True, eq=False, kw_only=True)
class TransposedConvolution(Convolution):
    """Its weight is [in_channels, out_channels / groups, ...], with one scale."""

    output_padding: tuple[int, ...]

    @property
    def weight_axis(self) -> int:
        return 1

    @property
    def weight_scale(self) -> Array:
        columns = self.rounded_layer.weight.shape[1]
        return np.repeat(self.rounded_layer.scale[:1], columns)

    def integers(self, *inputs: Array) -> Array:
        x = centered(inputs[0], self.inputs[0].grid)
        weight = self.rounded_layer.weight.astype(np.float64)
        kernel, counts = weight.shape[2:], x.shape[2:]
        reach = [
            (count - 1) * stride + dilation * (size - 1) + 1
            for count, stride, dilation, size in zip(
                counts, self.stride, self.dilation, kernel, strict=True
            )
        ]
        channels = len(self.rounded_layer.scale)
        room = [size + extra for size, extra in zip(reach, self.output_padding, strict=True)]
        total = np.zeros((len(x), channels, *room))
        for place, target in windows(total, kernel, self.stride, self.dilation, counts):
            target += products(
                x, self._rows(weight[(slice(None), slice(None), *place)]), self.groups
            )
        inside = [slice(pad, size - pad) for pad, size in zip(self.padding, room, strict=True)]
        return self.finish(total[(slice(None), slice(None), *inside)])

    def _rows(self, weight: Array) -> Array:
        """[in_channels, out_channels / groups] as [out_channels, in_channels / groups]."""
        grouped = weight.reshape(self.groups, -1, weight.shape[1])
        return grouped.transpose(0, 2, 1).reshape(-1, grouped.shape[1])

    def reals(self, *tensors: Tensor) -> Tensor:
        function: Any = getattr(functional, f"conv_transpose{self.dimensions}d")
        y: Tensor = function(
            *tensors, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )
        return y.relu() if self.relu else y

    def kernel(self, engine: str) -> Kernel | None:
        # fbgemm packs other weights, onednn and qnnpack compute something else for some shapes
        return None

    def write(self, to: Writer) -> None:
        self.write_layer(to, "ConvTranspose", **self.attributes, output_padding=self.output_padding)


def _fields(site: Site) -> dict[str, Any]:
    names = ("stride", "padding", "dilation", "groups")
    return layer_fields(site) | {name: getattr(site.module, name) for name in names}


def _node(site: Site) -> Convolution:
    return Convolution(**_fields(site))


def _transposed_node(site: Site) -> TransposedConvolution:
    return TransposedConvolution(**_fields(site), output_padding=site.module.output_padding)


for _kind in CONVOLUTIONS.values():
    FORMS[_kind] = Form(placing=Placing.OWN, node=_node, takes_relu=True, weighted=True)
for _kind in TRANSPOSED.values():
    FORMS[_kind] = Form(placing=Placing.OWN, node=_transposed_node, takes_relu=True, weighted=True)


@recognizes(*CONVOLUTIONS.values())
def _convolution(call: Call, layer: Any, x: fx.Node) -> fx.Node | None:
    dimensions = len(layer.kernel_size)
    geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return _emit(call, x, layer.weight, layer.bias, dimensions, *geometry, mode=layer.padding_mode)


def _functional(
    dimensions: int,
    call: Call,
    input: fx.Node,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> fx.Node | None:
    return _emit(call, input, weight, bias, dimensions, stride, padding, dilation, groups)


for _dimensions in CONVOLUTIONS:
    _targets = (getattr(functional, f"conv{_dimensions}d"),)
    recognizes(*_targets)(functools.partial(_functional, _dimensions))


def _emit(
    call: Call,
    x: fx.Node,
    weight: Any,
    bias: Any,
    dimensions: int,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    *,
    mode: str = "zeros",
) -> fx.Node | None:
    batched = len(shape_of(x)) == dimensions + 2
    if not (batched and isinstance(weight, Tensor) and isinstance(bias, Tensor | None)):
        return None
    outputs, per_group, *kernel = weight.shape
    dilation = per_dimension(dilation, dimensions)
    pads = _pads(padding, kernel, dilation)
    symmetric = all(low == high for low, high in pads)
    if any(map(any, pads)) and (mode != "zeros" or not symmetric):
        x = _padded(call, x, pads, "constant" if mode == "zeros" else mode)
        pads = [(0, 0)] * dimensions
    layer = CONVOLUTIONS[dimensions](
        per_group * groups,
        outputs,
        tuple(kernel),
        per_dimension(stride, dimensions),
        tuple(low for low, _ in pads),
        dilation,
        groups,
        bias is not None,
    )
    return call.emit(own_copy(layer, weight, bias), x)


def _pads(padding: Any, kernel: list[int], dilation: tuple[int, ...]) -> list[tuple[int, int]]:
    """Padding before and behind, per dimension; "same" puts the odd one behind, as torch does."""
    if not isinstance(padding, str):
        return [(each, each) for each in per_dimension(padding, len(kernel))]
    if padding == "valid":
        return [(0, 0)] * len(kernel)
    reach = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
    return [(each // 2, each - each // 2) for each in reach]


def _padded(call: Call, x: fx.Node, pads: list[tuple[int, int]], mode: str) -> fx.Node:
    everywhere = ((0, 0), (0, 0), *pads)
    sizes = zip(shape_of(x), everywhere, strict=True)
    shape = tuple(None if size is None else size + low + high for size, (low, high) in sizes)
    return call.emit(Pad(everywhere, mode), x, shape=shape)


@recognizes(*TRANSPOSED.values())
def _transposed(call: Call, layer: Any, x: fx.Node, output_size: Any = None) -> fx.Node | None:
    dimensions = len(layer.kernel_size)
    output_padding = layer.output_padding if output_size is None else None
    geometry = (layer.stride, layer.padding, output_padding, layer.groups, layer.dilation)
    return _functional_transposed(dimensions, call, x, layer.weight, layer.bias, *geometry)


def _functional_transposed(
    dimensions: int,
    call: Call,
    input: fx.Node,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> fx.Node | None:
    batched = len(shape_of(input)) == dimensions + 2
    known = (
        output_padding is not None
        and isinstance(weight, Tensor)
        and isinstance(bias, Tensor | None)
    )
    if not (batched and known):
        return None
    inputs, per_group, *kernel = weight.shape
    more = per_dimension(output_padding, dimensions)
    strides = per_dimension(stride, dimensions)
    unusual = any(extra >= step for extra, step in zip(more, strides, strict=True))
    if unusual and None in call.shape[2:]:
        return None
    layer = TRANSPOSED[dimensions](
        inputs,
        per_group * groups,
        tuple(kernel),
        strides,
        per_dimension(padding, dimensions),
        0 if unusual else more,
        groups,
        bias is not None,
        per_dimension(dilation, dimensions),
    )
    layer = own_copy(layer, weight, bias)
    return _cut(call, input, layer, more) if unusual else call.emit(layer, input)


def _cut(call: Call, x: fx.Node, layer: Any, more: tuple[int, ...]) -> fx.Node:
    """``layer`` with ``more`` output padding than its stride, which ONNX Runtime refuses: on a
    longer image, then cut."""
    longer = [-(-extra // step) for extra, step in zip(more, layer.stride, strict=True)]
    x = _padded(call, x, [(0, each) for each in longer], "constant")
    shape = list(call.shape)
    for dim, (count, step, extra) in enumerate(zip(longer, layer.stride, more, strict=True), 2):
        shape[dim] += count * step - extra
    y = call.emit(layer, x, shape=tuple(shape))
    for dim in range(2, len(shape)):
        size = call.shape[dim]
        assert size is not None
        shape[dim] = size
        y = call.emit(Slice(dim, 0, size), y, shape=tuple(shape))
    return y


for _dimensions in TRANSPOSED:
    _targets = (getattr(functional, f"conv_transpose{_dimensions}d"),)
    recognizes(*_targets)(functools.partial(_functional_transposed, _dimensions))


@draws(often=8)
def _draw(random: Random, shape: Sizes) -> nn.Module | None:
    inputs, *image = shape
    dimensions = len(image)
    if dimensions not in CONVOLUTIONS:
        return None
    groups = random.choice([each for each in (1, 1, 2, 3, inputs) if inputs % each == 0])
    pads: Any = several(random, (0, 0, 1, 2), dimensions)
    layer = CONVOLUTIONS[dimensions](
        inputs,
        groups * random.randint(1, 3),
        several(random, (1, 2, 3), dimensions),
        several(random, (1, 1, 2, 3), dimensions),
        random.choice((pads, pads, "same", "valid")),
        several(random, (1, 1, 2), dimensions),
        groups,
        happens(random, 0.7),
        random.choice(("zeros", "zeros", "zeros", "reflect", "replicate", "circular")),
    )
    if happens(random, 0.8):
        return layer
    geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
    function = getattr(functional, f"conv{dimensions}d")
    return Applied(function, layer.weight, layer.bias, *geometry)


@draws(often=3)
def _draw_transposed(random: Random, shape: Sizes) -> nn.Module | None:
    inputs, *image = shape
    dimensions = len(image)
    if dimensions not in TRANSPOSED:
        return None
    groups = random.choice([each for each in (1, 1, 2, 3, inputs) if inputs % each == 0])
    layer = TRANSPOSED[dimensions](
        inputs,
        groups * random.randint(1, 3),
        several(random, (1, 2, 3), dimensions),
        several(random, (1, 2, 3), dimensions),
        several(random, (0, 0, 1), dimensions),
        several(random, (0, 0, 1), dimensions),
        groups,
        happens(random, 0.7),
        several(random, (1, 1, 2), dimensions),
    )
    if happens(random, 0.8):
        return layer
    geometry = (layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
    function = getattr(functional, f"conv_transpose{dimensions}d")
    return Applied(function, layer.weight, layer.bias, *geometry)
