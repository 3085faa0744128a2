"""What decides the scale of a weight, in training and for the file; ``activation_quantizers.py``
has what does so for tensors.

A strategy that learns or chooses a scale gives an object of its own in the place of these
(``recipe.py``). It says the step only: grid, clipping and straight-through estimator are here, so
that what is trained is what is exported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qstrategies.errors import NotFiniteError
from qstrategies.operators.base import FLOAT_EXACT
from qstrategies.quantization.fixed_point import (
    largest_sum,
    short_bias,
    stored_factor,
    tie_free_scale,
)
from qstrategies.quantization.scales import (
    LARGEST_PAIR,
    fake_quantize,
    fake_round,
    largest,
    largest_pair,
    mantissa,
    round_to_levels_,
    straight_through,
    weight_scale,
)
from qstrategies.quantization.surroundings import fit_layer, keep_range
from qstrategies.records.levels import LevelSet


@dataclass(frozen=True, eq=False)
class QuantizerSite:
    """The place of a quantizer.

    Attributes:
        name: of the layer, or of the node that gives the (first) tensor.
        kind: of tensor; "input" is what the user gives.
        layer: with the weight; None for other tensors.
        weight: [out_channels, ...] as the quantizer sees it: batch normalization and the pixel
            step folded in.
        members: the nodes that give the tensors, all of them.
    """

    name: str
    kind: Literal["weight", "activation", "input"]
    layer: nn.Module | None = None
    weight: Tensor | None = None
    members: tuple[str, ...] = ()


class WeightQuantizer(nn.Module):
    """Rounds a weight to its ``level_set``; each weight it sees gives its scale afresh.

    ``name`` is that of the layer, ``levels`` that of the set. ``pairs``: whether exact scales keep
    two products within 16 bits. ``fixed_point``: whether the integers are those of
    ``fixed_point.py``, stored ``factor`` times as large. ``unit`` is the factor that will be folded
    into the weight before export (the pixel scale in a first layer). A bias of more steps of the
    accumulator than ``largest_bias`` raises an exact scale.
    """

    def __init__(  # noqa: PLR0913 - one keyword per setting
        self,
        bits: int,
        *,
        per_channel: bool,
        exact: bool,
        levels: str = "narrow",
        pairs: bool = True,
        fixed_point: bool = False,
        unit: float = 1.0,
    ) -> None:
        super().__init__()
        self.name = ""
        self.bits, self.per_channel, self.exact = bits, per_channel, exact
        self.pairs, self.fixed_point, self.unit = pairs, fixed_point, unit
        self.levels, self.level_set = levels, LevelSet.of(levels, bits)
        self.quant_min, self.quant_max = self.level_set.quant_min, self.level_set.quant_max
        self.factor = stored_factor(self.level_set, pairs=pairs) if fixed_point else 1
        self.largest_bias = largest_sum(self.factor) // 4 if fixed_point else math.inf

    @property
    def chosen(self) -> bool:
        """Whether the integers are chosen already, so that no recipe is asked for them."""
        return False

    @property
    def largest_pair(self) -> int:
        """What two weights of one sign may sum to where products have 16 bits."""
        return LARGEST_PAIR // self.factor

    @property
    def limits_pairs(self) -> bool:
        """Whether two weights of one sign could exceed that, and may not."""
        return self.pairs and 2 * self.level_set.largest > self.largest_pair

    @property
    def largest_sum(self) -> int:
        """What the largest partial sum times the scale's mantissa may be."""
        return largest_sum(self.factor) if self.fixed_point else FLOAT_EXACT

    @property
    def settings(self) -> dict[str, Any]:
        """With these and ``bits`` another one is made alike."""
        names = ("per_channel", "exact", "levels", "pairs", "fixed_point", "unit")
        return {name: getattr(self, name) for name in names}

    def step(self, rows: Tensor) -> Tensor:
        """The wanted step [out_channels] for ``rows`` [out_channels, products] of the weight as it
        is exported; where it is learned, with its gradient. Here: the smallest with which no weight
        moves by more than half of what levels are apart.
        """
        return largest(rows) / self.level_set.reach

    def exported_scale(self, weight: Tensor) -> Tensor:
        """The scale [out_channels] of ``weight`` [out_channels, ...] times ``unit``: the step, put
        on the exact grid if that is asked for.

        Raises:
            NotFiniteError: a weight or a step that is NaN or infinite.
        """
        weight = weight.detach().float()
        rows = (weight if self.unit == 1 else weight * self.unit).flatten(1)
        check_finite(rows, f"the weights of {self.name!r}")
        step = self.step(rows)
        check_finite(step, f"the step of the weights of {self.name!r}")
        scale = self.on_grid(rows, step.detach())
        return straight_through(scale, step) if step.requires_grad else scale

    def fitted(
        self, scale: Tensor, bias: Tensor, entry_scale: Tensor, result: tuple[float, int] | None
    ) -> Tensor:
        """The ``exported_scale`` ``scale``, as much larger as the layer's surroundings ask for
        (``surroundings.py``): its ``bias`` [out_channels], the scale of its input, and scale and
        zero point of its ``result``, None if not known."""
        if not self.exact:
            return scale
        shifted = None
        if result is not None and (result[1] or self.fixed_point):
            shifted = result[0] * self.factor  # the stored step is finer
        fitted = fit_layer(scale, bias, entry_scale, shifted, self.largest_bias)
        if self.fixed_point:
            fitted = short_bias(fitted, bias, entry_scale, self.factor)
        elif result is not None and not torch.round(bias / (fitted * entry_scale)).any():
            fitted = keep_range(fitted, result[1])
        return fitted if self.per_channel else fitted.max().expand_as(fitted)

    def on_grid(self, rows: Tensor, step: Tensor) -> Tensor:
        """The scale [out_channels] that is exported where ``step`` is wanted."""
        if self.fixed_point:
            if self.limits_pairs:
                room = self.largest_pair - 2 * self.level_set.offset  # both may be rounded up
                step = torch.maximum(step, largest_pair(rows) / room)
            alike = {"per_channel": self.per_channel}
            return tie_free_scale(rows, step, self.level_set, self.factor, **alike)
        return weight_scale(
            rows,
            step,
            self.level_set,
            per_channel=self.per_channel,
            exact=self.exact,
            pairs=self.pairs,
        )

    def bias_steps(self, bias: Tensor, step: Tensor, result: float | None) -> Tensor:
        """``bias`` in steps ``step`` of the accumulator, as it is exported: whole; for fixed-point
        kernels half-way between two, where steps of the ``result`` (None if not known) are coarser,
        so that sums are rounded."""
        steps = bias / step
        if not self.fixed_point:
            return torch.round(steps)
        rounds = step / mantissa(step) < (math.inf if result is None else result)
        return torch.where(rounds, torch.floor(steps) + 0.5, torch.round(steps))

    def scale(self, weight: Tensor) -> Tensor:
        """The scale [out_channels] of ``weight`` itself."""
        return self.exported_scale(weight) / self.unit

    def rounded(self, weight: Tensor, scale: Tensor) -> Tensor:
        """``integers`` times ``scale``, which is shaped to go with ``weight``, with the gradients
        of training."""
        clips = type(self).step is not WeightQuantizer.step or self.levels == "full"
        spacing = self.level_set.spacing
        if not clips:
            return fake_round(weight, scale, spacing)
        return fake_quantize(weight, scale, 0, self.quant_min, self.quant_max, spacing=spacing)

    def nearest(self, steps: Tensor) -> Tensor:
        """The levels nearest to ``steps``."""
        rounded = round_to_levels_(steps.clone(), self.level_set.spacing)
        return rounded.clamp(self.quant_min, self.quant_max)

    def integers(self, weight: Tensor, step: Tensor) -> Tensor:
        """What is exported of ``weight`` (times ``unit``) for its scale ``step``, in the layout of
        ``weight``; of its ``level_set``. Here: to nearest, ties to even."""
        return self.nearest(weight / step)

    def forward(self, weight: Tensor) -> Tensor:
        return self.rounded(weight, self.scale(weight).reshape(-1, *[1] * (weight.dim() - 1)))


DIVERGED = "Quantize a model whose training has not diverged"
INFINITE = f"{DIVERGED}, with finite numbers in its forward, as -1e4 for a mask"


def check_finite(values: Tensor, what: str, remedy: str = DIVERGED) -> None:
    """Raise ``NotFiniteError`` if one of ``values`` is NaN or infinite."""
    if not math.isfinite(values.detach().sum()):  # several times as fast as torch.isfinite
        raise NotFiniteError(f"not finite: {what}. {remedy}")
