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


def rounded_up(v: Tensor) -> Tensor:
    """Rectified sigmoid ``clip(sigmoid(v) (zeta - gamma) + gamma, 0, 1)`` (equation 23): how much
    of a step a weight is rounded up."""
    return (torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def undecided(fraction: Tensor) -> Tensor:
    """The ``v`` for which ``rounded_up`` is ``fraction``, in [0, 1)."""
    return -torch.log((ZETA - GAMMA) / (fraction - GAMMA) - 1)


def indecision(h: Tensor, beta: float) -> Tensor:
    """``sum 1 - |2 h - 1|^beta`` (equation 24): zero where every ``h`` is 0 or 1."""
    return (1 - (2 * h - 1).abs().pow(beta)).sum()


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


@torch.enable_grad()
def up_or_down(problem: RoundingProblem, data: Regression, settings: Settings) -> Tensor:
    """The integers of the weight, each one of the two beside it, that come closest to what
    ``data`` wants."""
    layer = problem.layer
    step = weight_rows(layer, problem.step.expand_as(problem.weight))
    reals = weight_rows(layer, problem.weight) / step
    below = torch.floor(reals)
    v = undecided(reals - below).requires_grad_()
    bias = problem.bias.reshape(len(below), 1, -1)
    after = torch.relu if problem.relu else torch.nn.Identity()
    targets = after(data.wanted + bias)
    unit = data.wanted.var(1).mean().clamp(min=torch.finfo(torch.float32).tiny)
    optimizer = torch.optim.Adam([v], lr=settings.rate, fused=True)
    for number in range(settings.steps):
        start = number * settings.places % max(1, data.rows.shape[1] - settings.places + 1)
        drawn = slice(start, start + settings.places)
        h = rounded_up(v)
        weight = (below + h).clamp(problem.low, problem.high) * step
        found = after(data.rows[:, drawn] @ weight.mT + bias)
        error = (found - targets[:, drawn]).square().sum((0, 2)).mean() / unit
        beta = sharpness(number / settings.steps, settings.warm_up)
        loss = error if beta is None else error + settings.strength * indecision(h, beta)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    up = rounded_up(v.detach()) >= 0.5
    return from_rows(layer, (below + up).clamp(problem.low, problem.high))
