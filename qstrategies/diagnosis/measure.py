"""What rounding does to one tensor, in the terms of the field."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Site:
    """A weight (of ``name``) or an activation (the output of ``name``) that is rounded to
    ``levels`` steps.

    ``sqnr``: signal to quantization noise, dB, measured; ``predicted``: by ``predicted_sqnr``;
    ``peak``: max |x| over the root mean square; ``spread``: the largest channel's max |x| over the
    median channel's; ``clipped``: share of values outside the range; ``unused``: share of the range
    that no value reaches.
    """

    name: str
    kind: str
    sqnr: float
    predicted: float
    peak: float
    kurtosis: float
    spread: float
    clipped: float
    unused: float


def sqnr(signal: Tensor, noisy: Tensor) -> float:
    """10 log10(sum x^2 / sum (x - q)^2) in dB; infinite without noise."""
    noise = (signal.double() - noisy.double()).square().sum().item()
    power = signal.double().square().sum().item()
    if noise == 0:
        return math.inf
    return 10 * math.log10(power / noise) if power else -math.inf


def predicted_sqnr(steps: float, peak: float) -> float:
    """6.02 b + 4.77 - 20 log10(max / sigma) dB for 2^b = ``steps``: uniform noise over a range of
    [-max, max] (Bennett, 1948)."""
    return 20 * math.log10(steps) + 10 * math.log10(3) - 20 * math.log10(max(peak, 1e-12))


def site(
    name: str,
    kind: str,
    signal: Tensor,
    rounded: Tensor,
    interval: tuple[Tensor, Tensor],
    steps: int,
) -> Site:
    """The figures of one tensor that is rounded to ``steps`` values in [low, high].

    ``signal`` has its channels first (a weight) or second (an activation); ``low`` and ``high``
    hold one number, or one per channel.
    """
    low, high = interval
    channels = (
        signal.movedim(0 if kind == "weight" else min(1, signal.dim() - 1), 0).flatten(1)
        if signal.dim() > 1
        else signal[None]
    )
    centred, rms = (
        channels.double() - channels.double().mean(),
        channels.double().square().mean().sqrt().item(),
    )
    variance, peaks = centred.square().mean().item(), channels.abs().amax(1)
    low, high = low.reshape(-1, 1).to(channels), high.reshape(-1, 1).to(channels)
    half_range, step = (
        ((high - low) / 2).square().mean().sqrt().item(),
        (high - low) / max(1, steps - 1),
    )
    reached = torch.minimum(high, channels.amax()) - torch.maximum(low, channels.amin())
    if len(low) > 1:
        reached = torch.minimum(high[:, 0], channels.amax(1)) - torch.maximum(
            low[:, 0], channels.amin(1)
        )
    return Site(
        name=name,
        kind=kind,
        sqnr=sqnr(signal, rounded),
        predicted=predicted_sqnr(steps, half_range / rms) if rms else -math.inf,
        peak=peaks.max().item() / rms if rms else 0.0,
        kurtosis=centred.pow(4).mean().item() / variance**2 if variance else 0.0,
        spread=_ratio(peaks.max().item(), peaks.median().item()),
        clipped=((channels < low - step / 2) | (channels > high + step / 2)).double().mean().item(),
        unused=(1 - reached.flatten() / (high - low).flatten()).clamp_min(0).mean().item(),
    )


def _ratio(largest: float, middle: float) -> float:
    return largest / middle if middle > 0 else math.inf if largest > 0 else 1.0
