"""Rounding up or down of all weights of a block at once, by what the block gives (BRECQ: Li et al.,
arXiv 2102.05426)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qstrategies.quantization.blocks import BlockProblem
from qstrategies.quantization.propagate import RoundingProblem
from qstrategies.quantization.scales import fake_quantize
from qstrategies.quantization.soft_rounding import (
    Settings,
    level_below,
    rounded_up,
    sharpness,
    undecided,
    unit_of,
)

LEAST_EXAMPLES = 2
"""In a step, however many places of the output each has."""


class SoftWeight:
    """A weight of which each number lies between the two levels beside it, by ``v``."""

    def __init__(self, problem: RoundingProblem) -> None:
        steps = problem.weight / problem.step
        self.problem, self.below = problem, level_below(steps, problem.spacing)
        self.v = undecided((steps - self.below) / problem.spacing).requires_grad_()

    def real(self) -> Tensor:
        """The weight now."""
        return self._at(rounded_up(self.v)) * self.problem.step

    def penalty(self, beta: float) -> Tensor:
        """AdaRound's regularizer ``sum(1 - |2 h - 1|^beta)``."""
        return (1 - (2 * rounded_up(self.v) - 1).abs().pow(beta)).sum()

    def integers(self) -> Tensor:
        """The nearer of the two."""
        return self._at(rounded_up(self.v.detach()) >= 0.5)

    def _at(self, part: Tensor) -> Tensor:
        """So much of the way to the level above."""
        found = self.below + self.problem.spacing * part
        return found.clamp(self.problem.low, self.problem.high)


class Mixture:
    """Each number rounded with probability ``share``, as the network will round it, else left in
    float (QDrop: Wei et al., arXiv 2203.05740)."""

    def __init__(self, problem: BlockProblem, share: float) -> None:
        self.grids, self.share = problem.grids, share
        self.generator = torch.Generator().manual_seed(1)

    def of(self, rounded: Tensor, real: Tensor) -> Tensor:
        """The mixture of two tensors of one shape."""
        drawn = torch.rand(real.shape, generator=self.generator)
        return torch.where(drawn < self.share, rounded, real)

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """A tensor inside of the block, with the straight-through estimator."""
        grid = self.grids.get(name)
        if grid is None:
            return value
        scale = torch.tensor(grid.scale)
        ends = grid.quant_min, grid.quant_max
        return self.of(fake_quantize(value, scale, grid.zero_point, *ends), value)


def reconstruct(
    problem: BlockProblem, settings: Settings, share: float | None = None
) -> dict[str, Tensor]:
    """The integers of every layer of ``problem``, by its node's name, with which the block comes
    closest to the float one.

    ``min over V of |f(W~ x^) - f(W x)|^2 + strength sum(1 - |2 h(V) - 1|^beta)`` as ``up_or_down``,
    f the whole block, in units of the variance of its result.

    Args:
        share: of the numbers that are rounded in the block and where it reads; None to read what
            the rounded network gives, and to round nothing inside.
    """
    generator = torch.Generator().manual_seed(0)
    soft = {name: SoftWeight(layer) for name, layer in problem.layers.items()}
    mixture = None if share is None else Mixture(problem, share)
    entries, floats, wanted = _by_example(problem)
    unit = unit_of(wanted.flatten(0, 1).transpose(0, 1).flatten(1))
    places = wanted[0].numel() // wanted.shape[2]
    count = min(len(wanted), max(LEAST_EXAMPLES, math.ceil(settings.places / places)))
    optimizer = torch.optim.Adam([each.v for each in soft.values()], settings.rate, fused=True)
    for number in range(settings.steps):
        drawn = torch.randperm(len(entries), generator=generator)[:count]
        x, y = entries[drawn].flatten(0, 1), wanted[drawn].flatten(0, 1)
        weights = {name: each.real() for name, each in soft.items()}
        if mixture is None:
            found = problem.output(x, weights)
        else:
            found = problem.output(mixture.of(x, floats[drawn].flatten(0, 1)), weights, mixture)
        loss = (found - y).square().mean() * y.shape[1] / unit
        beta = sharpness(number / settings.steps, settings.warm_up)
        if beta is not None:
            penalties = torch.stack([each.penalty(beta) for each in soft.values()])
            loss = loss + settings.strength * penalties.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: each.integers() for name, each in soft.items()}


@torch.no_grad()
def _by_example(problem: BlockProblem) -> tuple[Tensor, Tensor, Tensor]:
    """What the block reads in the rounded and in the float network, and what it gives in the
    latter, [examples, rows of an example, ...] each."""
    reals = {name: layer.weight for name, layer in problem.layers.items()}
    found: tuple[list[Tensor], ...] = ([], [], [])
    for count, (ours, theirs) in zip(problem.examples, problem.pairs, strict=True):
        tensors = (ours, theirs, problem.output(theirs, reals))
        for kept, tensor in zip(found, tensors, strict=True):
            kept.append(tensor.reshape(count, -1, *tensor.shape[1:]))
    entries, floats, wanted = (torch.cat(kept) for kept in found)
    return entries, floats, wanted
