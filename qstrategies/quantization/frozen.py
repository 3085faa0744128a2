"""Integers that are chosen before training and kept, their steps alone trained (EfficientQAT: Chen
et al., arXiv 2407.11062, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from qstrategies.operators.base import Array
from qstrategies.quantization.exact_forms import norm_factor, output_rows
from qstrategies.quantization.fake_quantized import FakeQuantizedLayer
from qstrategies.quantization.learned import LearnedStep, lsq_step
from qstrategies.quantization.quantizers import QuantizerSite, WeightQuantizer


class FrozenStep(LearnedStep):
    """The step of integers that never move: before ``begin`` as LSQ starts, then ``first`` times
    what is learned.

    Buffers: the integers ``at`` in the layout of the weight, the same as ``rows`` [out_channels,
    products], and ``first`` per channel or tensor. Where the layer's surroundings ask for a coarser
    step, ``fitted`` makes of them the ``nearby`` integers, the nearest in that one.
    """

    at: Tensor
    nearby: Tensor
    rows: Tensor
    first: Tensor
    begun: Tensor

    def __init__(self, like: WeightQuantizer, site: QuantizerSite) -> None:
        assert site.weight is not None and site.layer is not None
        super().__init__(like, len(site.weight))
        self.register_buffer("at", torch.zeros(site.layer.weight.shape))  # type: ignore[arg-type]
        self.register_buffer("nearby", self.at, persistent=False)
        self.register_buffer("rows", torch.zeros(site.weight.flatten(1).shape))
        self.register_buffer("first", torch.ones(len(self.log_factor)))
        self.register_buffer("begun", torch.tensor(False))

    @property
    def chosen(self) -> bool:
        return bool(self.begun)

    @torch.no_grad()
    def begin(self, layer: FakeQuantizedLayer, integers: Array) -> None:
        """Keep ``integers`` q, with the step of least squared error ``w q / q q`` from the weight w
        of ``layer`` as it is exported."""
        factor = 1.0 if layer.norm is None else norm_factor(layer.layer, layer.norm)
        self.at.copy_(torch.from_numpy(integers))
        self.nearby = self.at
        self.rows.copy_(output_rows(layer.layer, self.at).flatten(1))
        reals = output_rows(layer.layer, layer.layer.weight * factor) * self.unit
        w, q = (each.reshape(len(self.first), -1) for each in (reals, self.rows))
        fitted = (w * q).sum(1) / q.square().sum(1)
        self.first.copy_(torch.where(fitted > 0, fitted, self.reference(w)))
        self.begun.fill_(True)

    def step(self, rows: Tensor) -> Tensor:
        if not self.begun:
            return super().step(rows)
        elements = self.rows.numel() / len(self.first) * self.quant_max
        return lsq_step(self.first, self.log_factor, elements)

    def on_grid(self, rows: Tensor, step: Tensor) -> Tensor:
        return super().on_grid(self.rows * step[:, None] if self.begun else rows, step)

    def fitted(
        self, scale: Tensor, bias: Tensor, entry_scale: Tensor, result: tuple[float, int] | None
    ) -> Tensor:
        found = super().fitted(scale, bias, entry_scale, result)
        if self.begun:
            by_channel = (scale / found).reshape(-1, *[1] * (self.at.dim() - 1))
            ratio = by_channel if self.per_channel else by_channel.flatten()[0]
            self.nearby = torch.round(self.at * ratio)
        return found

    def rounded(self, weight: Tensor, scale: Tensor) -> Tensor:
        return self.nearby * scale if self.begun else super().rounded(weight, scale)

    def integers(self, weight: Tensor, step: Tensor) -> Tensor:
        return self.nearby if self.begun else super().integers(weight, step)
