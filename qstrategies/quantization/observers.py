"""Observers and fake quantizers: torch.ao's own ranges, with qparams on the exact grid."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization import HistogramObserver, MinMaxObserver, MovingAverageMinMaxObserver
from torch.ao.quantization.observer import ObserverBase

from qstrategies.quantization.scales import exact_activation_qparams, fake_quantize, weight_scale


class _ExactQParams(ObserverBase):
    """Mixin before a torch.ao observer: same range, but a power-of-two scale and an even zero
    point."""

    quant_min: int
    quant_max: int

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        scale, zero_point = super().calculate_qparams()  # type: ignore[safe-super]
        low, high = (self.quant_min - zero_point) * scale, (self.quant_max - zero_point) * scale
        return exact_activation_qparams(low, high, self.quant_min, self.quant_max)


class ExactMinMaxObserver(_ExactQParams, MinMaxObserver):
    """``MinMaxObserver`` on the exact grid."""


class ExactMovingAverageObserver(_ExactQParams, MovingAverageMinMaxObserver):
    """``MovingAverageMinMaxObserver`` on the exact grid."""


class ExactHistogramObserver(_ExactQParams, HistogramObserver):
    """``HistogramObserver`` (the range of least squared error) on the exact grid."""


ACTIVATION_OBSERVERS: dict[tuple[str, bool], type[ObserverBase]] = {
    ("min_max", True): ExactMinMaxObserver,
    ("moving_average", True): ExactMovingAverageObserver,
    ("histogram", True): ExactHistogramObserver,
    ("min_max", False): MinMaxObserver,
    ("moving_average", False): MovingAverageMinMaxObserver,
    ("histogram", False): HistogramObserver,
}


class ActivationFakeQuantize(nn.Module):
    """Observes the range of every training batch and rounds to the quantizer that it gives at
    once."""

    def __init__(self, observer: nn.Module) -> None:
        super().__init__()
        self.observer = observer
        known: Any = observer
        self.needs_all_values = isinstance(observer, HistogramObserver)
        self.quant_min: int = known.quant_min
        self.quant_max: int = known.quant_max

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.observer(
                x.detach() if self.needs_all_values else torch.stack(torch.aminmax(x.detach()))
            )
        scale, zero_point = self.calculate_qparams()
        return fake_quantize(x, scale, zero_point, self.quant_min, self.quant_max)

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point of what was observed."""
        observer: Any = self.observer
        qparams: tuple[Tensor, Tensor] = observer.calculate_qparams()
        return qparams


class WeightFakeQuantize(nn.Module):
    """Rounds a weight to the quantizer that is exported for it, its scale taken afresh from each
    weight it sees.

    ``unit`` is the factor that will be folded into the weight before export (the pixel scale in a
    first layer).
    """

    def __init__(
        self, bits: int, *, per_channel: bool, exact: bool, levels: int, unit: float = 1.0
    ) -> None:
        super().__init__()
        self.bits, self.per_channel, self.exact, self.levels, self.unit = (
            bits,
            per_channel,
            exact,
            levels,
            unit,
        )
        self.quant_max = 2 ** (bits - 1) - 1
        self.quant_min = -self.quant_max

    def scale(self, weight: Tensor, *, per_channel: bool | None = None) -> Tensor:
        """The scale of ``weight`` [out_channels, ...], shape [out_channels]; ``per_channel`` where
        the layer decides that."""
        per_channel = self.per_channel if per_channel is None else per_channel
        folded = weight * self.unit
        scale = weight_scale(
            folded, self.bits, per_channel=per_channel, exact=self.exact, levels=self.levels
        )
        return scale / self.unit

    def forward(self, weight: Tensor) -> Tensor:
        scale = self.scale(weight).reshape(-1, *[1] * (weight.dim() - 1))
        return fake_quantize(weight, scale, 0, self.quant_min, self.quant_max)
