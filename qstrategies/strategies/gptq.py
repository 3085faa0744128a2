"""GPTQ: weights rounded column by column, the error of each made good by those to come (Frantar et
al., https://arxiv.org/abs/2210.17323)."""

from __future__ import annotations

import torch
from torch import Tensor

from qstrategies.quantization.propagate import RoundingProblem
from qstrategies.quantization.regression import from_rows, sampled, weight_rows
from qstrategies.quantization.scales import round_to_levels_
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Course, Option, Strategy

BLOCK = 100  # columns whose errors go to all later ones at once


@STRATEGIES.register("gptq")
class GPTQ(Strategy):
    """With ``H = 2 X^T X / n`` of the inputs (convolutions: of their windows, per group), damped,
    and the upper Cholesky factor U of its inverse: column j is rounded, and
    ``w <- w - (w_j - q_j) / U_jj U_j`` (algorithm 1). Columns that read only zeros in calibration
    are rounded to nearest (the authors' code makes them zero): other inputs may reach them.
    """

    summary = "weights rounded one after another, later ones making good for the errors (GPTQ)"
    paper = "https://arxiv.org/abs/2210.17323"
    course = Course(parent="no_norm", schedule=None)
    options = {"damping": Option(0.01, 1e-8, 1, "of the mean of H's diagonal, added to it")}

    def round_weights(self, problem: RoundingProblem) -> Tensor:
        if not problem.pairs:
            return problem.nearest()
        inputs = sampled(problem).rows.double()  # fewer places than columns need its digits
        hessian = 2 * inputs.mT @ inputs / inputs.shape[1]
        diagonal = hessian.diagonal(dim1=1, dim2=2)
        diagonal[diagonal == 0] = 1
        diagonal += self.values["damping"] * diagonal.mean(1, keepdim=True)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
        factor = torch.linalg.cholesky(inverse, upper=True).float()
        weight = weight_rows(problem.layer, problem.weight / problem.step)
        return from_rows(problem.layer, _rounded(weight, factor, problem))


def _rounded(weight: Tensor, factor: Tensor, problem: RoundingProblem) -> Tensor:
    """The levels of ``weight`` [groups, rows, columns], in steps, for the ``factor`` U."""
    weight, columns = weight.clone(), weight.shape[2]
    for first in range(0, columns, BLOCK):
        last = min(first + BLOCK, columns)
        errors = torch.zeros_like(weight[..., first:last])
        for column in range(first, last):
            steps = weight[..., column].clone()
            rounded = round_to_levels_(steps, problem.spacing).clamp(problem.low, problem.high)
            error = (weight[..., column] - rounded) / factor[:, column, column, None]
            weight[..., column:last] -= error[..., None] * factor[:, None, column, column:last]
            weight[..., column] = rounded
            errors[..., column - first] = error
        weight[..., last:] -= errors @ factor[:, first:last, last:]
    return weight
