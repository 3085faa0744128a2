"""What decides the scale of the tensors of one group, in training and for the file."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qstrategies.operators.base import Quantizer
from qstrategies.quantization.observers import observed_ends, observes_ends_only
from qstrategies.quantization.quantizers import INFINITE, check_finite
from qstrategies.quantization.scales import (
    exact_activation_qparams,
    fake_quantize,
    straight_through,
)


class ActivationQuantizer(nn.Module):
    """Rounds the tensors of one group to uint8; ``observer`` finds their range.

    In training it observes every batch and rounds it to the quantizer that results at once; what
    has seen nothing rounds nothing. ``name`` is that of the (first) tensor, ``interval`` what all
    its readers cut its values to, which then need no wider range, ``raised`` the finest that what
    is around allows, if its own is finer (``steps.py``). A reduced range only chooses the scale:
    kernels saturate at ``saturates_at``, beyond its ``quant_max``.
    """

    def __init__(self, observer: Any) -> None:
        super().__init__()
        self.name = ""
        self.interval: tuple[float, float] | None = None
        self.observer = observer
        self.ends = observes_ends_only(observer)
        self.quant_min: int = observer.quant_min
        self.quant_max: int = observer.quant_max
        self.saturates_at = self.quant_max
        self.latest: tuple[Tensor, Tensor] | None = None
        self.raised: Quantizer | None = None

    @property
    def highest(self) -> int:
        """The largest integer that there is; in training that of the range."""
        return self.quant_max if self.training else self.saturates_at

    def observe(self, x: Tensor) -> Tensor:
        """Look at a tensor of the float model; returns what is behind the quantizer there."""
        seen: Tensor = self.observer(x)
        return seen

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.observer(torch.stack(torch.aminmax(x.detach())) if self.ends else x.detach())
        if not (self.training or self.seen):
            return x
        scale, zero_point = self.renewed()
        return fake_quantize(x, scale, zero_point, self.quant_min, self.highest)

    @property
    def figures(self) -> Tensor | None:
        """What the range is made of; None before anything was seen."""
        return observed_ends(self.observer)

    @property
    def seen(self) -> bool:
        """Whether there are values to take a range from."""
        return self.figures is not None

    def renewed(self) -> tuple[Tensor, Tensor]:
        """``raised_qparams``, which the layers around then know as the ``latest``."""
        scale, zero_point = self.raised_qparams()
        self.latest = scale.detach(), zero_point
        return scale, zero_point

    def current(self) -> tuple[Tensor, Tensor] | None:
        """``raised_qparams`` without gradients, in training those of the latest batch; None before
        anything was seen."""
        if self.training and self.latest is not None:
            return self.latest
        if not self.seen:
            return None
        scale, zero_point = self.raised_qparams()
        return scale.detach(), zero_point

    def raised_qparams(self) -> tuple[Tensor, Tensor]:
        """``qparams``, but those of ``raised`` where these are finer."""
        scale, zero_point = self.qparams()
        if self.raised is None:
            return scale, zero_point
        finer = scale < self.raised.scale
        coarse = scale.clamp(min=self.raised.scale)
        return coarse, torch.where(finer, self.raised.zero_point, zero_point)

    def qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point as they are exported where nothing around asks for coarser ones,
        each [1].

        Raises:
            NotFiniteError: values or a learned range that are NaN or infinite.
        """
        figures = self.figures
        if figures is not None:
            check_finite(figures, f"the range of {self.name!r}", INFINITE)
        scale, zero_point = self.calculate_qparams()
        if self.interval is None:
            return scale, zero_point
        low, high = ((end - zero_point) * scale for end in (self.quant_min, self.quant_max))
        below, above = (end.detach().clamp(*self.interval) for end in (low, high))
        narrow, zero_point = exact_activation_qparams(below, above, self.quant_min, self.quant_max)
        return (straight_through(narrow, scale) if scale.requires_grad else narrow), zero_point

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point of what was observed."""
        qparams: tuple[Tensor, Tensor] = self.observer.calculate_qparams()
        return qparams
