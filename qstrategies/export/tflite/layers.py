"""Convolutions and linear layers as TFLite operators: the same integers, channels last."""

from __future__ import annotations

import numpy as np

from qstrategies.export.nibbles import fits_nibbles
from qstrategies.export.tflite.flatbuffer import Quantization
from qstrategies.export.tflite.windows import VALID, Window, only_images, padded
from qstrategies.export.tflite.writer import IMAGE, TfliteWriter, no_form, writes
from qstrategies.operators.base import Array
from qstrategies.operators.convolution import Convolution
from qstrategies.operators.layer import Layer
from qstrategies.operators.linear import Linear
from qstrategies.operators.transposed import TransposedConvolution

RELU = 1
"""TFLite's number of the activation that a layer may end with; 0 for none."""


@writes(Convolution)
def _convolution(node: Convolution, to: TfliteWriter) -> None:
    only_images(node, node.dimensions)
    weight = node.rounded_layer.weight
    window = Window.of(weight.shape[2:], node.stride, node.padding, node.dilation)
    x, mode = padded(node, to, window)
    settings = window.settings(mode) | window.dilations | activation(node)
    weight = weight.reshape(*weight.shape[:2], *window.size)
    channels = to.shape(node.inputs[0])[1]
    if node.groups == channels > 1:
        operands = [x, *_parameters(node, to, weight.transpose(1, 2, 3, 0), axis=3)]
        code, version, options = "DEPTHWISE_CONV_2D", 3, "DepthwiseConv2DOptions"
        settings["DepthMultiplier"] = len(weight) // channels
    else:
        operands = [x, *_parameters(node, to, weight.transpose(0, 2, 3, 1))]
        code, options = "CONV_2D", "Conv2DOptions"
        version = 7 if packs(node) else 3
    to.file.operator(code, version, operands, to.give(node.output, IMAGE), options, **settings)


@writes(TransposedConvolution)
def _transposed(node: TransposedConvolution, to: TfliteWriter) -> None:
    only_images(node, node.dimensions)
    remedy = "Use Upsample and Conv2d, or ship the ONNX file"
    if node.groups > 1 or max(node.dilation) > 1:
        raise no_form(node, "its transposed convolution has groups or dilation", remedy)
    if any(node.padding) or any(node.output_padding):
        raise no_form(node, "its transposed convolution pads its output", remedy)
    weight = node.rounded_layer.weight
    window = Window.of(weight.shape[2:], node.stride, node.padding)
    weight = weight.reshape(*weight.shape[:2], *window.size)
    kernel, bias = _parameters(node, to, weight.transpose(1, 2, 3, 0))
    shape = to.numbers(f"{node.name}.shape", to.shape(node.output, IMAGE))
    operands = [shape, kernel, to.take(node.inputs[0], IMAGE), bias]
    settings = window.settings(VALID) | activation(node)
    made = to.give(node.output, IMAGE)
    to.file.operator("TRANSPOSE_CONV", 3, operands, made, "TransposeConvOptions", **settings)


@writes(Linear)
def _linear(node: Linear, to: TfliteWriter) -> None:
    entry, weight = node.inputs[0], node.rounded_layer.weight
    layout = next(iter(to.places[entry.name]))
    if layout.kind == "rows":
        weight = weight.reshape(-1, *layout.image).transpose(0, 2, 3, 1).reshape(weight.shape)
        x = to.take(entry, layout)
    else:
        x = to.take(entry)
    operands = [x, *_parameters(node, to, weight)]
    made, options = to.give(node.output), "FullyConnectedOptions"
    version = _version(node)
    to.file.operator("FULLY_CONNECTED", version, operands, made, options, **activation(node))


def packs(layer: Layer) -> bool:
    """Whether the weights of ``layer`` are stored in 4 bits: where they fit, in convolutions of all
    channels and linear layers, which all kernels take so."""
    whole = type(layer) is Linear or (type(layer) is Convolution and layer.groups == 1)
    return whole and fits_nibbles(layer.rounded_layer.weight)


def activation(layer: Layer) -> dict[str, int]:
    """The option for what follows the products of ``layer``."""
    return {"FusedActivationFunction": RELU if layer.relu else 0}


def _version(layer: Linear) -> int:
    """Of the kernel that takes its weights: in 4 bits, with one scale, with one per channel."""
    if packs(layer):
        return 10
    return 4 if _one_scale(layer) else 12


def _one_scale(layer: Layer) -> bool:
    return bool((layer.rounded_layer.scale == layer.rounded_layer.scale[0]).all())


def _nudge(layer: Layer) -> np.float32:
    """What makes a power of two the float32 just below, where kernels that round twice would else
    round odd sums to halves first."""
    return np.float32(1 - 2.0**-24 if layer.rounded_layer.factor == 2 else 1)


def _parameters(layer: Layer, to: TfliteWriter, weight: Array, axis: int = 0) -> list[int]:
    """``weight`` with its scales along ``axis``, and the bias."""
    scale, bias_scale = layer.rounded_layer.scale, layer.bias_scale
    if isinstance(layer, Linear) and _one_scale(layer):  # as kernels of all versions take it
        scale, bias_scale = scale[:1], bias_scale[:1]
    scale, bias_scale = (each * _nudge(layer) for each in (scale, bias_scale))
    weight, bias = np.ascontiguousarray(weight), layer.rounded_layer.bias
    store = to.constant_of_four_bits if packs(layer) else to.constant
    return [
        store(f"{layer.name}.weight", weight, Quantization(scale, axis=axis)),
        to.constant(f"{layer.name}.bias", bias, Quantization(bias_scale)),
    ]
