"""A word about integers of 8 bits that are the user's model in every operator, and mostly noise
all the same."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from qstrategies.guest import level_outside
from qstrategies.operators.base import TensorSpec
from qstrategies.quantization.model import QuantizedModel
from qstrategies.quantization.prepare import Prepared
from qstrategies.quantization.saturation import FloatNetwork

WIDEST = 8  # of fewer bits nobody expects the float model


@torch.no_grad()
def warn_of_noise(
    prepared: Prepared,
    quantized: QuantizedModel,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
) -> None:
    """Warn of ``outputs``, what the integers give for ``inputs``, that are mostly noise."""
    if min(prepared.config.weight_bits, prepared.config.activation_bits) < WIDEST:
        return
    expected = FloatNetwork(prepared.graph).run(*(tensor.clone() for tensor in inputs))
    for name, spec, found, wanted in zip(
        quantized.output_names, quantized.graph.outputs, outputs, expected, strict=True
    ):
        if is_mostly_noise(spec, found, wanted):
            _warn(name, found, wanted)


def is_mostly_noise(spec: TensorSpec, found: Tensor, expected: Tensor) -> bool:
    """Whether the power of what differs is more than half of the signal's, and more than an
    output's own rounding."""
    noise = (found - expected).double()
    step = 0.0 if spec.quantizer is None else spec.quantizer.scale
    if not noise.numel() or noise.abs().max() <= 2 * step:
        return False
    return bool(noise.square().sum() > expected.double().square().sum() / 2)


def _warn(name: str, found: Tensor, expected: Tensor) -> None:
    noise, signal = (each.double().square().sum() for each in (found - expected, expected))
    decibels = 10 * math.log10(signal / noise) if signal else -math.inf
    warnings.warn(
        f"output {name!r} is mostly noise on calibration data: {decibels:.1f} dB of signal to "
        "noise. qs.diagnose says where that comes from; leave_in_float takes parts out, as "
        "norms written with rsqrt whose inputs differ much in size",
        stacklevel=level_outside(),
    )
