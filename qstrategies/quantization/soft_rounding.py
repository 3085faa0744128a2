"""Rounding up or down as a number to be trained (AdaRound: Nagel et al., arXiv 2004.10568)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qstrategies.quantization.propagate import RoundingProblem
from qstrategies.quantization.regression import Regression, from_rows, weight_rows

ZETA, GAMMA = 1.1, -0.1
FIRST_BETA, LAST_BETA = 20.0, 2.0
TIE, LEAN = 0.5, 0.01


def rounded_up(v: Tensor) -> Tensor:
    """Rectified sigmoid ``clip(sigmoid(v) (zeta - gamma) + gamma, 0, 1)`` (equation 23): how much
    of a step a weight is rounded up."""
    return (torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def level_below(reals: Tensor, spacing: int) -> Tensor:
    """The largest level at or below each of ``reals``: any integer, or an odd one where levels are
    2 apart."""
    return torch.floor((reals - spacing + 1) / spacing) * spacing + spacing - 1


def undecided(fraction: Tensor) -> Tensor:
    """The ``v`` for which ``rounded_up`` is ``fraction``, in [0, 1).

    Ties, as zeros are among odd levels, lean to either side in turn: nothing else would move them.
    """
    v = -torch.log((ZETA - GAMMA) / (fraction - GAMMA) - 1)
    ties = fraction == TIE
    v[ties] = torch.where(torch.arange(int(ties.sum())) % 2 == 0, LEAN, -LEAN)
    return v


def unit_of(channels: Tensor) -> Tensor:
    """What squared errors are measured in: the variance of ``channels`` [channels, values], a mean
    over all. Where they hardly vary, as those of a single example, their squares tell it; 1
    where all are zero."""
    squares = torch.finfo(channels.dtype).eps * channels.square().mean()
    spread = channels.var(1).mean() if channels.shape[1] > 1 else channels.square().mean()
    unit = torch.maximum(spread, squares)
    return torch.where(unit > 0, unit, 1.0)


def sharpness(progress: float, warm_up: float) -> float | None:
    """The exponent beta, from 20 down to 2 by half a cosine; None before ``warm_up`` of the steps
    are done."""
    if progress < warm_up:
        return None
    rest = (progress - warm_up) / (1 - warm_up)
    return LAST_BETA + (FIRST_BETA - LAST_BETA) * (1 + math.cos(math.pi * rest)) / 2


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How long and how fast to train.

    Attributes:
        steps: of Adam.
        rate: its learning rate.
        strength: of the regularizer, for outputs of variance 1.
        warm_up: the part of the steps without it.
        places: of the output, drawn for each step.
    """

    steps: int
    rate: float
    strength: float
    warm_up: float
    places: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Objective:
    """``mean over places of |f(x W~^T + b) - y|^2 / unit + strength sum(1 - |2 h - 1|^beta)`` with
    ``h = rounded_up(v)``, ``W~ = step clip(below + spacing h, low, high)`` and ``f`` the ReLU, if
    there is one (equations 21, 24 and 25).

    ``below`` and ``step`` are [groups, out_channels / groups, products], ``bias`` [groups, 1,
    out_channels / groups].
    """

    below: Tensor
    step: Tensor
    bias: Tensor
    low: int
    high: int
    spacing: int
    relu: bool
    unit: Tensor
    strength: float

    def activated(self, y: Tensor) -> Tensor:
        """``f(y)``."""
        return y.relu() if self.relu else y

    @torch.no_grad()
    def gradient(self, v: Tensor, x: Tensor, y: Tensor, beta: float | None) -> Tensor:
        """By ``v``, for ``x`` [groups, places, products] and the wanted ``y``; without the
        regularizer where ``beta`` is None. In closed form, with few passes over the weights: half
        of the time goes to them, the other to the two products."""
        sigmoid = torch.sigmoid(v)
        stretched = (sigmoid * (ZETA - GAMMA)).add_(GAMMA)
        weight = torch.clamp(stretched, 0, 1).mul_(self.spacing).add_(self.below)
        real = weight.clamp(self.low, self.high).mul_(self.step)
        found = self.activated(torch.baddbmm(self.bias, x, real.mT))
        error = (found - y).mul_(2 / x.shape[1] / self.unit)
        if self.relu:
            error.mul_(found > 0)
        slope = (error.mT @ x).mul_(self.spacing * self.step)
        # an end that is reached has an h of 0 or 1, so that its own gradient does not count
        slope = torch.ops.aten.hardtanh_backward(slope, weight, self.low, self.high)
        if beta is not None:
            away = stretched.mul(2).sub_(1)
            power = away.abs().pow_(beta - 1)
            slope.sub_(torch.copysign(power, away), alpha=2 * beta * self.strength)
        slope = torch.ops.aten.hardtanh_backward(slope, stretched, 0, 1)
        return torch.ops.aten.sigmoid_backward(slope, sigmoid).mul_(ZETA - GAMMA)


@torch.no_grad()
def up_or_down(problem: RoundingProblem, data: Regression, settings: Settings) -> Tensor:
    """The levels of the weight, each one of the two beside it, that come closest to what
    ``data`` wants."""
    layer, (low, high) = problem.layer, (problem.low, problem.high)
    step = weight_rows(layer, problem.step.expand_as(problem.weight))
    reals = weight_rows(layer, problem.weight) / step
    below = level_below(reals, problem.spacing)
    objective = Objective(
        below=below,
        step=step,
        bias=problem.bias.reshape(len(below), 1, -1),
        low=low,
        high=high,
        spacing=problem.spacing,
        relu=problem.relu,
        unit=unit_of(data.wanted.transpose(1, 2).flatten(0, 1)),
        strength=settings.strength,
    )
    targets = objective.activated(data.wanted + objective.bias)
    v = undecided((reals - below) / problem.spacing).requires_grad_()
    optimizer = torch.optim.Adam([v], lr=settings.rate, fused=True)
    for number in range(settings.steps):
        start = number * settings.places % max(1, targets.shape[1] - settings.places + 1)
        drawn = slice(start, start + settings.places)
        beta = sharpness(number / settings.steps, settings.warm_up)
        v.grad = objective.gradient(v, data.rows[:, drawn], targets[:, drawn], beta)
        optimizer.step()
    up = rounded_up(v.detach()) >= 0.5
    return from_rows(layer, (below + problem.spacing * up).clamp(low, high))
