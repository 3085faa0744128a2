"""Transposed convolutions in one to three dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from torch import Tensor, fx, nn
from torch.nn import functional

from qstrategies.operators.arithmetic import centered, products, windows
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
from qstrategies.operators.convolution import Convolution, convolution_fields
from qstrategies.operators.drawing import Applied, Sizes, draws, happens, several
from qstrategies.operators.layer import own_copy
from qstrategies.operators.padding import padded_image
from qstrategies.operators.slicing import Slice

TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def is_transposed(layer: Any) -> bool:
    """Whether ``layer`` is a transposed convolution, whose weight has its inputs first."""
    return isinstance(layer, tuple(TRANSPOSED.values()))


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


def _node(site: Site) -> TransposedConvolution:
    return TransposedConvolution(
        **convolution_fields(site), output_padding=site.module.output_padding
    )


for _kind in TRANSPOSED.values():
    FORMS[_kind] = Form(placing=Placing.OWN, node=_node, takes_relu=True, weighted=True)


@recognizes(*TRANSPOSED.values())
def _transposed(call: Call, layer: Any, x: fx.Node, output_size: Any = None) -> fx.Node | None:
    dimensions = len(layer.kernel_size)
    output_padding = layer.output_padding
    if output_size is not None:
        output_padding = _more(call, layer, x)
    geometry = (layer.stride, layer.padding, output_padding, layer.groups, layer.dilation)
    return _functional_transposed(dimensions, call, x, layer.weight, layer.bias, *geometry)


def _more(call: Call, layer: Any, x: fx.Node) -> tuple[int, ...] | None:
    """The output padding that gives the size of the result; None where a size is not known."""
    before, after = shape_of(x)[2:], call.shape[2:]
    found = []
    for size, wanted, *geometry in zip(
        before, after, layer.kernel_size, layer.stride, layer.padding, layer.dilation, strict=True
    ):
        if size is None or wanted is None:
            return None
        kernel, stride, padding, dilation = geometry
        found.append(wanted - (size - 1) * stride + 2 * padding - dilation * (kernel - 1) - 1)
    return tuple(found)


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
    layer = own_copy(
        weight,
        bias,
        TRANSPOSED[dimensions],
        inputs,
        per_group * groups,
        tuple(kernel),
        strides,
        per_dimension(padding, dimensions),
        0 if unusual else more,
        groups,
        dilation=per_dimension(dilation, dimensions),
    )
    return _cut(call, input, layer, more) if unusual else call.emit(layer, input)


def _cut(call: Call, x: fx.Node, layer: Any, more: tuple[int, ...]) -> fx.Node:
    """``layer`` with ``more`` output padding than its stride, which ONNX Runtime refuses: on a
    longer image, then cut."""
    longer = [-(-extra // step) for extra, step in zip(more, layer.stride, strict=True)]
    x = padded_image(call, x, [(0, each) for each in longer], "constant")
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


recognizes_by_dimension("conv_transpose", _functional_transposed)


@draws(often=3)
def _draw(random: Random, shape: Sizes) -> nn.Module | None:
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
