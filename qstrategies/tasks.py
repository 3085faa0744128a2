"""What a model is trained and judged by: a loss, and a score of each example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from qstrategies import source_code
from qstrategies.errors import InputError
from qstrategies.files import sha256
from qstrategies.records.metric import Metric

IGNORED = -100
"""The target of what has no class in segmentation: neither loss nor score counts it."""
Judge = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Task:
    """A task of one's own is one function for each, of what the model returns, its real values in
    float32, and of the targets [N, ...] of the same examples.

    Attributes:
        loss: a scalar to be made small by training.
        score: [N], one number for each example, whose mean is the metric; statistics pair them.
        metric: the name of that.
        higher_is_better: whether more of it is better.
        fraction: whether it lies in [0, 1], to be shown in percent.
        classes: whether outputs are logits of classes, in dimension 1, as distillation needs them.
    """

    loss: Judge
    score: Judge
    metric: str
    higher_is_better: bool = True
    fraction: bool = False
    classes: bool = False

    @property
    def measure(self) -> Metric:
        """What the figures are called and how they are read."""
        return Metric(
            name=self.metric, higher_is_better=self.higher_is_better, fraction=self.fraction
        )

    @property
    def identity(self) -> str:
        """A hash that changes with its code and settings."""
        functions = [source_code.identity(each) for each in (self.loss, self.score)]
        return sha256(repr([*functions, self.measure]).encode())

    def scores(self, outputs: Any, targets: Tensor) -> Tensor:
        """The score of each example, float64 [N].

        Raises ``InputError`` for anything else than one number for each.
        """
        found = self.score(outputs, targets)
        if not isinstance(found, Tensor) or found.shape != targets.shape[:1]:
            got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"the score {self.metric!r} gives {got} for {len(targets)} examples: expected "
                f"[{len(targets)}], one number for each"
            )
        return found.double()


def _hit(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.argmax(1) == targets


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    difference = outputs - targets.reshape(outputs.shape)
    return difference.square().reshape(len(outputs), -1).mean(1)


def _mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.mse_loss(outputs, targets.reshape(outputs.shape).to(outputs.dtype))


def _labels_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype))


def _labels_right(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs > 0) == (targets > 0.5)).double().reshape(len(outputs), -1).mean(1)


def _pixels_right(outputs: Tensor, targets: Tensor) -> Tensor:
    right = (outputs.argmax(1) == targets).double().flatten(1).sum(1)
    counted = (targets != IGNORED).flatten(1).sum(1)
    return torch.where(counted > 0, right / counted, 1.0)


CLASSIFICATION = Task(functional.cross_entropy, _hit, "accuracy", fraction=True, classes=True)
"""Logits [N, classes], targets int64 [N]."""
TASKS = {
    "classification": CLASSIFICATION,
    "regression": Task(_mean_squared_error, _squared_error, "mse", higher_is_better=False),
    "multilabel": Task(_labels_loss, _labels_right, "label accuracy", fraction=True),
    "segmentation": Task(
        functional.cross_entropy, _pixels_right, "pixel accuracy", fraction=True, classes=True
    ),
}
"""regression: values [N, ...] and real targets of as many numbers. multilabel: a logit for each
label, [N, labels], targets from 0 to 1. segmentation: logits [N, classes, ...], targets [N, ...],
``IGNORED`` where there is none."""


def check_targets(task: Task, targets: Tensor, what: str, classes: int | None = None) -> None:
    """Raise ``InputError`` for ``targets`` that a ``task`` of this package does not take, called
    ``what``; ``classes``: how many a model has, where that is known."""
    if task is TASKS["multilabel"] and not ((targets >= 0) & (targets <= 1)).all():
        low, high = targets.min().item(), targets.max().item()
        raise InputError(f"{what} run from {low:g} to {high:g}: expected 0 or 1 for each label")
    if task is not TASKS["segmentation"]:
        return
    if targets.is_floating_point():
        raise InputError(f"{what} are {targets.dtype}: expected whole numbers of classes")
    wrong = targets[(targets < 0) & (targets != IGNORED)].tolist()
    wrong += [] if classes is None else targets[targets >= classes].tolist()
    if wrong:
        most = "..." if classes is None else f"...{classes - 1}"
        raise InputError(
            f"{what} hold {wrong[0]}: expected classes 0{most}, or {IGNORED} where there is none"
        )
