"""Layers with weights and windows, as modules of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from qstrategies.onnx_model.node import (
    Node,
    Step,
    as_tuple,
    number,
    padding,
    pool_padding,
    sizes,
)

LAYERS: dict[str, Callable[[Node], Step]] = {}


def reads(kind: str) -> Callable[[Callable[[Node], Step]], Callable[[Node], Step]]:
    """Decorator: the function makes the step of nodes of ``kind``."""

    def add(function: Callable[[Node], Step]) -> Callable[[Node], Step]:
        LAYERS[kind] = function
        return function

    return add


def _filled(layer: nn.Module, **tensors: Tensor | None) -> nn.Module:
    for name, value in tensors.items():
        if value is not None:
            getattr(layer, name).data = value.float().clone()
    return layer.eval()


@reads("Conv")
def convolution(node: Node) -> Step:
    weight, bias = node.constant(1, "weights"), node.optional(2, "bias")
    groups, (before, behind) = node.get("group", 1), padding(node, weight.shape[2:])
    even = before == behind
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[node.spatial - 1]
    layer = kind(
        weight.shape[1] * groups,
        weight.shape[0],
        as_tuple(weight.shape[2:]),  # type: ignore[arg-type]
        as_tuple(sizes(node, "strides")),  # type: ignore[arg-type]
        as_tuple(before if even else [0] * node.spatial),  # type: ignore[arg-type]
        as_tuple(sizes(node, "dilations")),  # type: ignore[arg-type]
        groups,
        bias is not None,
    )
    filled = _filled(layer, weight=weight, bias=bias)
    return filled if even else nn.Sequential(_padded(before, behind), filled)


def _padded(before: Sequence[int], behind: Sequence[int]) -> nn.Module:
    pairs = list(zip(before, behind, strict=True))
    kind = (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)[len(pairs) - 1]
    return kind(as_tuple([each for pair in reversed(pairs) for each in pair]), 0.0)  # type: ignore[arg-type]


@reads("ConvTranspose")
def transposed(node: Node) -> Step:
    weight, bias = node.constant(1, "weights"), node.optional(2, "bias")
    node.require("output_shape" not in node.attributes, "with output_shape")
    groups, (before, behind) = node.get("group", 1), padding(node, [])
    around = [min(pair) for pair in zip(before, behind, strict=True)]
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[node.spatial - 1]
    layer = kind(
        weight.shape[0],
        weight.shape[1] * groups,
        as_tuple(weight.shape[2:]),  # type: ignore[arg-type]
        as_tuple(sizes(node, "strides")),  # type: ignore[arg-type]
        as_tuple(around),  # type: ignore[arg-type]
        as_tuple(node.get("output_padding", [0] * node.spatial)),  # type: ignore[arg-type]
        groups,
        bias is not None,
        as_tuple(sizes(node, "dilations")),  # type: ignore[arg-type]
    )
    filled = _filled(layer, weight=weight, bias=bias)
    if before == behind:
        return filled
    more = (
        [least - each for least, each in zip(around, side, strict=True)]
        for side in (before, behind)
    )
    return nn.Sequential(filled, _padded(*more))  # by less than nothing, which cuts off


@reads("BatchNormalization")
def batch_norm(node: Node) -> Step:
    names = ("weight", "bias", "running_mean", "running_var")
    values = [node.constant(place, name) for place, name in enumerate(names, 1)]
    node.require(not node.get("training_mode", 0), "in training mode")
    node.require(node.rank is not None and 2 <= node.rank <= 5, "of an input of unknown rank")
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    layer = kind[node.rank or 0](len(values[0]), eps=node.get("epsilon", 1e-5))
    return _filled(layer, **dict(zip(names, values, strict=True)))


@reads("InstanceNormalization")
def instance_norm(node: Node) -> Step:
    weight, bias = node.constant(1, "scale"), node.constant(2, "bias")
    kind = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[node.spatial - 1]
    layer = kind(len(weight), eps=node.get("epsilon", 1e-5), affine=True)
    return _filled(layer, weight=weight, bias=bias)


@reads("LayerNormalization")
def layer_norm(node: Node) -> Step:
    weight, bias = node.constant(1, "scale"), node.optional(2, "bias")
    axis = node.get("axis", -1)
    node.require(axis in (-1, (node.rank or 0) - 1), f"from axis {axis}")
    layer = nn.LayerNorm(weight.shape, eps=node.get("epsilon", 1e-5), bias=bias is not None)
    return _filled(layer, weight=weight, bias=bias)


@reads("GroupNormalization")
def group_norm(node: Node) -> Step:
    weight, bias = node.constant(1, "scale"), node.constant(2, "bias")
    groups = node.get("num_groups")
    node.require(node.opset >= 21, f"of opset {node.opset}, with a scale for each group")
    layer = nn.GroupNorm(groups, len(weight), eps=node.get("epsilon", 1e-5))
    return _filled(layer, weight=weight, bias=bias)


@reads("Gemm")
def linear(node: Node) -> Step:
    weight, bias = node.constant(1, "weights"), node.optional(2, "bias")
    node.require(not node.get("transA", 0), "with transA")
    rows = weight if node.get("transB", 0) else weight.T
    scaled = None if bias is None else bias * node.get("beta", 1.0)
    return _linear(rows * node.get("alpha", 1.0), scaled)


@reads("MatMul")
def product(node: Node) -> Step:
    weight = node.constants[1]
    if weight is None:
        node.require(node.constants[0] is None, "of a constant on the left")
        return torch.matmul
    node.require(weight.dim() == 2, f"with weights {list(weight.shape)}")
    return _linear(weight.T, None)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, bias is not None)
    return _filled(layer, weight=weight, bias=None if bias is None else bias.expand(outputs))


@reads("MaxPool")
def max_pool(node: Node) -> Step:
    node.require(len(node.proto.output) == 1, "with indices")
    kind = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[node.spatial - 1]
    before, ceils = pool_padding(node)
    return kind(
        as_tuple(node.get("kernel_shape")),
        as_tuple(sizes(node, "strides")),
        as_tuple(before),
        as_tuple(sizes(node, "dilations")),
        ceil_mode=ceils,
    )


@reads("AveragePool")
def average_pool(node: Node) -> Step:
    node.require(set(sizes(node, "dilations")) == {1}, "with dilations")
    kind = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[node.spatial - 1]
    before, ceils = pool_padding(node)
    return kind(
        as_tuple(node.get("kernel_shape")),  # type: ignore[arg-type]
        as_tuple(sizes(node, "strides")),  # type: ignore[arg-type]
        as_tuple(before),  # type: ignore[arg-type]
        ceil_mode=ceils,
        count_include_pad=bool(node.get("count_include_pad", 0)),
    )


@reads("GlobalAveragePool")
def global_average(node: Node) -> Step:
    kind = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[node.spatial - 1]
    return kind(1)


@reads("GlobalMaxPool")
def global_max(node: Node) -> Step:
    kind = (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)[node.spatial - 1]
    return kind(1)


@reads("DepthToSpace")
def depth_to_space(node: Node) -> Step:
    size, shuffle = node.get("blocksize"), nn.PixelShuffle(node.get("blocksize"))
    if node.get("mode", "DCR") == "CRD":
        return shuffle
    node.require(node.rank == 4, "of an input of unknown rank")
    channels = (node.shape or ())[1]
    order = torch.arange(channels).reshape(size * size, -1).T.flatten().tolist()
    return lambda x: shuffle(x[:, order])


@reads("Resize")
def resize(node: Node) -> Step:
    mode = node.get("mode", "nearest")
    transform = node.get("coordinate_transformation_mode", "half_pixel")
    rounding = node.get("nearest_mode", "round_prefer_floor")
    known = {
        ("nearest", "asymmetric", "floor"): None,
        ("linear", "half_pixel", rounding): False,
        ("linear", "pytorch_half_pixel", rounding): False,
        ("linear", "align_corners", rounding): True,
    }
    node.require((mode, transform, rounding) in known, f"{mode}, {transform}, {rounding}")
    node.require("axes" not in node.attributes, "with axes")
    names = {"nearest": "nearest", "linear": ("linear", "bilinear", "trilinear")[node.spatial - 1]}
    align = known[mode, transform, rounding]
    wanted = node.numbers("sizes", 3)
    if wanted is not None:
        return nn.Upsample(as_tuple(wanted[2:]), mode=names[mode], align_corners=align)
    scales = [float(value) for value in node.constant(2, "scales").tolist()]
    node.require(scales[:2] == [1.0, 1.0], f"with scales {scales}")
    return nn.Upsample(scale_factor=tuple(scales[2:]), mode=names[mode], align_corners=align)


@reads("PRelu")
def prelu(node: Node) -> Step:
    slope = node.constant(1, "slope").flatten()
    return _filled(nn.PReLU(len(slope)), weight=slope)


@reads("Clip")
def clip(node: Node) -> Step:
    low, high = node.get("min"), node.get("max")
    if node.opset >= 11:
        bounds = [node.optional(place, name) for place, name in ((1, "min"), (2, "max"))]
        low, high = (None if bound is None else number(bound) for bound in bounds)
    if (low, high) == (0.0, 6.0):
        return nn.ReLU6()
    return lambda x: torch.clamp(x, low, high)


@reads("HardSigmoid")
def hard_sigmoid(node: Node) -> Step:
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return nn.Hardsigmoid()
    return lambda x: torch.clamp(x * alpha + beta, 0, 1)


@reads("Pad")
def pad(node: Node) -> Step:
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}
    mode = node.get("mode", "constant")
    node.require(mode in modes, f"in mode {mode}")
    both = node.numbers("pads", 1) or []
    value = node.get("value", 0.0)
    if node.opset >= 11:
        given = node.optional(2, "value")
        value = 0.0 if given is None else float(given)
    half = len(both) // 2
    flat = [each for dim in reversed(range(half)) for each in (both[dim], both[half + dim])]
    while flat[-2:] == [0, 0]:
        del flat[-2:]
    if mode == "constant":
        return lambda x: functional.pad(x, flat, value=value)
    return lambda x: functional.pad(x, flat, mode=modes[mode])
