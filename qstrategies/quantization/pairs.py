"""Layers whose sums the int8 kernels of a CPU without VNNI get wrong: they add products in pairs,
in 16 bits, where two weights may be too large for that (``scales.py``)."""

from __future__ import annotations

import functools

import numpy as np
import torch

from qstrategies.guest import selected_engine
from qstrategies.operators.base import HIGHEST, Node
from qstrategies.operators.convolution import Convolution
from qstrategies.operators.layer import Layer
from qstrategies.quantization.scales import LARGEST_PAIR, largest_pair

CHANNELS, SIZE, WEIGHT, EXPECTED = 16, 3, 127, 200


def saturates(node: Node, engine: str) -> bool:
    """Whether the kernels of ``engine`` may give other sums than those of the
    integers of ``node``."""
    if not isinstance(node, Layer):
        return False
    grouped = isinstance(node, Convolution) and node.groups > 1
    return _adds_in_16_bits(engine, CHANNELS if grouped else 1) and _pair(node) > LARGEST_PAIR


def _pair(layer: Layer) -> float:
    """The largest sum of two weights of one sign and channel."""
    weight = layer.rounded_layer.weight
    rows = np.moveaxis(weight, layer.weight_axis, 0).reshape(weight.shape[layer.weight_axis], -1)
    return float(largest_pair(torch.from_numpy(rows).float()).max())


@functools.cache
def _adds_in_16_bits(engine: str, groups: int) -> bool:
    """Whether ``engine`` does on this CPU, found by a convolution of the largest inputs with equal
    weights."""
    each = CHANNELS // groups
    x = torch.full((1, CHANNELS, SIZE, SIZE), HIGHEST, dtype=torch.uint8)
    weight = torch.full((CHANNELS, each, SIZE, SIZE), WEIGHT, dtype=torch.int8)
    x, weight = (torch._make_per_tensor_quantized_tensor(tensor, 1.0, 0) for tensor in (x, weight))
    scale = HIGHEST * WEIGHT * each * SIZE**2 / EXPECTED
    with selected_engine(engine):
        geometry = [1, 1], [0, 0], [1, 1], groups
        packed = torch.ops.quantized.conv2d_prepack(weight, None, *geometry)
        found = torch.ops.quantized.conv2d(x, packed, scale, 0)
    return bool((found.int_repr() != EXPECTED).any())
