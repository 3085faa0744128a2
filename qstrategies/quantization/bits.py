"""Bits per layer: how much each layer's rounding disturbs what a network gives, and the widths of
least disturbance that a budget allows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor, fx

from qstrategies.errors import InputError
from qstrategies.quantization.exact_forms import folded_norm, module_at
from qstrategies.quantization.fake_quantized import FakeQuantizedLayer, ends_of
from qstrategies.quantization.prepare import Prepared, quantized_layers, weight_quantizer
from qstrategies.quantization.saturation import FloatNetwork

Batches = Sequence[tuple[Tensor, ...]]
Disturbance = NDArray[np.float64]

SCALE = 1e3
"""Of the objective: the solver takes sums that differ by less than 1e-6 as equal."""


def sizes(prepared: Prepared) -> dict[str, int]:
    """How many weights each quantized layer has."""
    layers = quantized_layers(prepared)
    return {str(node.target): module_at(prepared.graph, node).weight.numel() for node in layers}


@torch.no_grad()
def disturbances(prepared: Prepared, batches: Batches, widths: Sequence[int]) -> Disturbance:
    """What the outputs lose where one layer alone has so few bits, [layers, widths]: the squared
    error over the squared output, summed over the outputs.

    Weights are rounded to nearest with the recipe's quantizers; all else stays in float. One
    forward pass for every layer and width.
    """
    network, layers = FloatNetwork(prepared.graph), quantized_layers(prepared)
    wanted = [network.run(*batch) for batch in batches]
    found = np.zeros((len(layers), len(widths)))
    for row, node in enumerate(layers):
        weight = module_at(prepared.graph, node).weight
        real = weight.clone()
        for column, width in enumerate(widths):
            weight.copy_(_rounded(prepared, node, width))
            found[row, column] = _relative_error([network.run(*each) for each in batches], wanted)
            weight.copy_(real)
    return found


def _rounded(prepared: Prepared, node: fx.Node, bits: int) -> Tensor:
    """The weight of the layer at ``node`` with so many bits, before batch normalization is folded
    into it."""
    quantizer = weight_quantizer(prepared, node, bits)
    assert quantizer is not None, node
    layer, norm = module_at(prepared.graph, node), folded_norm(prepared.graph, node)
    return FakeQuantizedLayer(layer, norm, quantizer, ends_of(prepared, node)).weight


def _relative_error(found: Sequence[Sequence[Tensor]], wanted: Sequence[Sequence[Tensor]]) -> float:
    total = 0.0
    for ours, theirs in zip(zip(*found, strict=True), zip(*wanted, strict=True), strict=True):
        pairs = list(zip(ours, theirs, strict=True))
        noise = sum(float((a.double() - b.double()).square().sum()) for a, b in pairs)
        signal = sum(float(b.double().square().sum()) for _, b in pairs)
        total += noise / max(signal, torch.finfo(torch.float32).tiny)
    return total


def least_disturbing(
    disturbed: Disturbance, counts: Sequence[int], widths: Sequence[int], budget: float
) -> list[int]:
    """The width of each layer: ``min sum of disturbed`` over one of ``widths`` (ascending) for
    each, with at most ``budget`` bits per weight on average, ``counts`` weights to a layer (Yao et
    al., arXiv 2011.10680, section 3.3).

    Raises:
        InputError: a budget below the smallest width.
    """
    if budget < widths[0]:
        raise InputError(f"a budget of {budget:g} bits: give at least {widths[0]}")
    if budget >= widths[-1] or not counts:
        return [widths[-1]] * len(counts)
    uniform = max(place for place, width in enumerate(widths) if width <= budget)
    bound = max(disturbed[:, uniform].sum(), np.finfo(np.float64).tiny)  # what all alike cost
    costs = np.minimum(disturbed / bound, 1.0)
    layers, choices = costs.shape
    one_each = np.kron(np.eye(layers), np.ones(choices))
    bits = np.outer(counts, widths).astype(float).ravel()
    solved = milp(
        SCALE * costs.ravel(),
        integrality=np.ones(costs.size),
        bounds=Bounds(0, (disturbed <= bound).ravel().astype(float)),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(bits, -math.inf, budget * sum(counts)),
        ],
        options={"mip_rel_gap": 0},
    )
    assert solved.x is not None, solved.message
    return [widths[place] for place in solved.x.reshape(costs.shape).argmax(1)]
