"""Observers and fake quantizers: torch.ao's own ranges, with qparams on the exact grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.ao.quantization import FakeQuantizeBase, HistogramObserver, MinMaxObserver, MovingAverageMinMaxObserver
from torch.ao.quantization.observer import ObserverBase

from qstrategies.quantization.scales import exact_activation_qparams, fake_quantize, weight_scale


class _ExactQParams(ObserverBase):
    """Mixin before a torch.ao observer: same range, but a power-of-two scale and an even zero point."""

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


class FixedQuantizer(ObserverBase):
    """An activation quantizer that is decided: it observes and changes nothing."""

    qscheme = torch.per_tensor_affine

    def __init__(self, scale: float, zero_point: int = 0, quant_min: int = 0, quant_max: int = 255) -> None:
        super().__init__(dtype=torch.quint8)
        self.scale, self.zero_point = scale, zero_point
        self.quant_min, self.quant_max = quant_min, quant_max

    def forward(self, x: Tensor) -> Tensor:
        return x

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        return torch.tensor([self.scale]), torch.tensor([self.zero_point])


class PixelQuantizer(FixedQuantizer):
    """The network's entry for pixels, with a known step that ``finalize`` folds into the layers behind: raw values 0...255."""


class ActivationFakeQuantize(FakeQuantizeBase):
    """Observes the range of every training batch and rounds to the quantizer that it gives at once."""

    def __init__(self, observer: Callable[..., Any], **kwargs: Any) -> None:
        super().__init__()
        self.activation_post_process = observer(**kwargs)
        self.needs_all_values = isinstance(self.activation_post_process, HistogramObserver)
        self.dtype, self.qscheme = self.activation_post_process.dtype, self.activation_post_process.qscheme
        self.quant_min: int = self.activation_post_process.quant_min
        self.quant_max: int = self.activation_post_process.quant_max

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.activation_post_process(x.detach() if self.needs_all_values else torch.stack(torch.aminmax(x.detach())))
        scale, zero_point = self.activation_post_process.calculate_qparams()
        return fake_quantize(x, scale, zero_point, self.quant_min, self.quant_max)

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        return self.activation_post_process.calculate_qparams()


class WeightFakeQuantize(FakeQuantizeBase):
    """Rounds a weight to the quantizer that is exported for it, its scale taken afresh from each weight it sees.

    ``unit`` is the factor that will be folded into the weight before export (the pixel scale in a first layer).
    """

    dtype = torch.qint8
    ch_axis = 0

    def __init__(self, bits: int, per_channel: bool, exact: bool, levels: int, **_: Any) -> None:
        super().__init__()
        self.bits, self.per_channel, self.exact, self.levels = bits, per_channel, exact, levels
        self.quant_max = 2 ** (bits - 1) - 1
        self.quant_min = -self.quant_max
        self.qscheme = torch.per_channel_symmetric
        self.unit = 1.0
        self.activation_post_process = MinMaxObserver(
            dtype=self.dtype, qscheme=torch.per_tensor_symmetric, quant_min=-128, quant_max=127
        )  # torch.ao reads the numeric format from here; it never observes

    def scale(self, weight: Tensor, per_channel: bool | None = None) -> Tensor:
        """The scale of ``weight`` [out_channels, ...], shape [out_channels]; ``per_channel`` where the layer decides that."""
        per_channel = self.per_channel if per_channel is None else per_channel
        return weight_scale(weight * self.unit, self.bits, per_channel=per_channel, exact=self.exact, levels=self.levels) / self.unit

    def forward(self, weight: Tensor) -> Tensor:
        scale = self.scale(weight).reshape(-1, *[1] * (weight.dim() - 1))
        return fake_quantize(weight, scale, 0, self.quant_min, self.quant_max)

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("finalize() gives every layer a FixedWeightObserver before conversion")


class FixedWeightObserver(ObserverBase):
    """Hands ``convert_fx`` weight scales that are already decided, one per index of the axis ``ch_axis``."""

    qscheme, quant_min, quant_max = torch.per_channel_symmetric, -128, 127

    def __init__(self, scale: Tensor, ch_axis: int = 0) -> None:
        super().__init__(dtype=torch.qint8)
        self.scale, self.ch_axis = scale, ch_axis

    def forward(self, weight: Tensor) -> Tensor:
        return weight

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        return self.scale, torch.zeros(len(self.scale), dtype=torch.int64)


class FixedTensorWeightObserver(FixedWeightObserver):
    """The same with one scale, shape [1], for the whole tensor."""

    qscheme = torch.per_tensor_symmetric
