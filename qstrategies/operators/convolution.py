"""Convolutions in one to three dimensions."""

from __future__ import annotations

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
    recognizes_by_dimension,
    shape_of,
)
from qstrategies.operators.drawing import Applied, Sizes, draws, happens, several
from qstrategies.operators.layer import Layer, layer_fields, own_copy
from qstrategies.operators.padding import padded_image

CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


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
        if engine in ("onednn", "x86") and self._multiplies_channels:
            return None  # and takes wrong weights there
        prepack = getattr(torch.ops.quantized, f"conv{self.dimensions}d_prepack")
        geometry = (list(self.stride), list(self.padding), list(self.dilation), self.groups)
        packed = prepack(self.packed_weight(), self.packed_bias(), *geometry)
        name = f"conv{self.dimensions}d" + ("_relu" if self.relu else "")
        function = getattr(torch.ops.quantized, name)
        grid = self.output.grid
        return lambda x: function(x, packed, grid.scale, grid.zero_point)

    @property
    def _multiplies_channels(self) -> bool:
        """Whether every channel gives several, each one column wide (wrong with a horizontal
        stride) or of three dimensions (wrong where an image of depth 1 is padded)."""
        outputs, inputs_of_group = self.rounded_layer.weight.shape[:2]
        several = inputs_of_group == 1 and outputs > self.groups
        return several and (self.output.shape[-1] == 1 or self.dimensions == 3)

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


def convolution_fields(site: Site) -> dict[str, Any]:
    """What ``Convolution`` is made of, transposed or not."""
    names = ("stride", "padding", "dilation", "groups")
    return layer_fields(site) | {name: getattr(site.module, name) for name in names}


def _node(site: Site) -> Convolution:
    return Convolution(**convolution_fields(site))


for _kind in CONVOLUTIONS.values():
    FORMS[_kind] = Form(placing=Placing.OWN, node=_node, takes_relu=True, weighted=True)


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


recognizes_by_dimension("conv", _functional)


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
        x = padded_image(call, x, pads, "constant" if mode == "zeros" else mode)
        pads = [(0, 0)] * dimensions
    layer = own_copy(
        weight,
        bias,
        CONVOLUTIONS[dimensions],
        per_group * groups,
        outputs,
        tuple(kernel),
        per_dimension(stride, dimensions),
        tuple(low for low, _ in pads),
        dilation,
        groups,
    )
    return call.emit(layer, x)


def _pads(padding: Any, kernel: list[int], dilation: tuple[int, ...]) -> list[tuple[int, int]]:
    """Padding before and behind, per dimension; "same" puts the odd one behind, as torch does."""
    if not isinstance(padding, str):
        return [(each, each) for each in per_dimension(padding, len(kernel))]
    if padding == "valid":
        return [(0, 0)] * len(kernel)
    reach = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
    return [(each // 2, each - each // 2) for each in reach]


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
