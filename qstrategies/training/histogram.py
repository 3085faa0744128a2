"""The distribution of a model's weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qstrategies.records import WeightHistogram

HISTOGRAM_BINS = 128


def weight_histogram(layers: Sequence[Tensor], when: str, epoch: int) -> WeightHistogram:
    """The distribution of all numbers in the weights ``layers``."""
    weights = torch.cat([weight.detach().flatten().float().cpu() for weight in layers])
    largest = weights.abs().max().item()
    counts = torch.histc(weights, HISTOGRAM_BINS, -largest, largest)
    return WeightHistogram(
        when=when,
        epoch=epoch,
        low=-largest,
        high=largest,
        max_abs=largest,
        sigma=weights.std().item(),
        counts=tuple(int(count) for count in counts),
    )
