"""torch.ao's observers of ranges, with qparams on the exact grid."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization import HistogramObserver, MinMaxObserver, MovingAverageMinMaxObserver
from torch.ao.quantization.observer import ObserverBase

from qstrategies.quantization.histogram import ExactHistogramObserver
from qstrategies.quantization.scales import exact_activation_qparams


class _ExactQParams(ObserverBase):
    """Mixin before a torch.ao observer: same range, but a power-of-two scale and an even zero
    point."""

    quant_min: int
    quant_max: int

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        scale, zero_point = super().calculate_qparams()  # type: ignore[safe-super]
        low, high = (self.quant_min - zero_point) * scale, (self.quant_max - zero_point) * scale
        return exact_activation_qparams(low, high, self.quant_min, self.quant_max)


def observed_ends(observer: Any) -> Tensor | None:
    """The smallest and the largest value that ``observer`` takes its range from, [2]; None before
    it has seen any."""
    inner = getattr(observer, "observer", observer)
    if isinstance(inner, ExactHistogramObserver):
        return torch.cat([inner.low.reshape(1), inner.high.reshape(1)]) if inner.seen else None
    ends = torch.stack([inner.min_val, inner.max_val]).flatten()
    return None if bool(inner.min_val > inner.max_val) else ends


def observes_ends_only(observer: Any) -> bool:
    """Whether the smallest and the largest value of a tensor are all that ``observer`` looks at."""
    return isinstance(observer, MinMaxObserver)


class ExactMinMaxObserver(_ExactQParams, MinMaxObserver):
    """``MinMaxObserver`` on the exact grid."""


class ExactMovingAverageObserver(_ExactQParams, MovingAverageMinMaxObserver):
    """``MovingAverageMinMaxObserver`` on the exact grid."""


class LevelHistogramObserver(HistogramObserver):
    """``HistogramObserver`` that looks for the best range of the integers that there are, not of as
    many as the dtype has."""

    def __init__(self, *, quant_min: int, quant_max: int, **settings: Any) -> None:
        super().__init__(quant_min=quant_min, quant_max=quant_max, **settings)
        self.dst_nbins = quant_max - quant_min + 1


ACTIVATION_OBSERVERS: dict[tuple[str, bool], type[nn.Module]] = {
    ("min_max", True): ExactMinMaxObserver,
    ("moving_average", True): ExactMovingAverageObserver,
    ("histogram", True): ExactHistogramObserver,
    ("min_max", False): MinMaxObserver,
    ("moving_average", False): MovingAverageMinMaxObserver,
    ("histogram", False): LevelHistogramObserver,
}


def on_grid(
    observer: Any, low: Tensor, high: Tensor, *, exact: bool = False
) -> tuple[Tensor, Tensor]:
    """Scale and zero point of the grid of ``observer`` for the range [low, high] with zero in it,
    each of shape [1]; on the exact grid if ``exact``."""
    first, last = observer.quant_min, observer.quant_max
    if exact or isinstance(observer, _ExactQParams):
        return exact_activation_qparams(low, high, first, last)
    scale = ((high - low) / (last - first)).clamp(min=torch.finfo(torch.float32).eps)
    return scale, (first - torch.round(low / scale)).clamp(first, last).long()
