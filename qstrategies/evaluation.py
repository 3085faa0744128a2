"""Predictor and split -> Evaluation, with what each example gave so that results can be paired."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qstrategies.datasets.split import Split
from qstrategies.quantization.structure import leaves, mapped
from qstrategies.runtimes.base import joined
from qstrategies.tasks import CLASSIFICATION, Task

BATCH = 200
"""Images per evaluation batch: the float activations of more no longer fit the cache, which costs a
factor of three."""
BATCH_NUMBERS = 8 << 20
"""Of the inputs in a batch: of large ones fewer, whose activations fit into memory."""
CHECKED_BYTES = 256 << 20
"""Of the inputs of a split that lies on disk, and of outputs that are no classes: so many are given
to every executor of a file, and kept to be compared with."""


@dataclass(frozen=True)
class Scored:
    """What a task that is no classification leaves of each of N examples.

    ``scores`` [N] float64; ``marks`` [N] uint32, equal where targets are; ``example``: outputs as
    the model structures them, of one example; ``targets`` of those whose outputs are kept.
    """

    task: Task
    scores: NDArray[np.float64]
    marks: NDArray[np.uint32]
    example: Any
    targets: Tensor

    def of(self, outputs: NDArray[Any]) -> NDArray[np.float64]:
        """The scores of ``outputs`` [n, ...] for the first n examples, joined as runtimes join
        them."""
        tensor = torch.from_numpy(np.ascontiguousarray(outputs))
        parts = [each for _, each in leaves(self.example)]
        columns = [part[0].numel() for part in parts]
        split = iter(tensor.reshape(len(tensor), -1).split(columns, 1))
        whole = mapped(
            self.example, lambda _, part: next(split).reshape(-1, *part.shape[1:]).to(part.dtype)
        )
        return self.task.scores(whole, self.targets[: len(tensor)]).numpy()


@dataclass(frozen=True)
class Evaluation:
    """Outputs of one predictor on one split: logits [N, classes] float32 and labels [N] (None where
    nobody knows them).

    For another task ``scored`` says what is known of each of the N examples; ``logits`` are then
    the outputs of the first of them, several joined as columns.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    scored: Scored | None = None

    def __len__(self) -> int:
        return len(self.logits) if self.scored is None else len(self.scored.scores)

    @property
    def predictions(self) -> NDArray[Any]:
        """What is kept of every example, [N]: the predicted class, ties to the lower one; of
        another task its score, signed so that more is better."""
        return self.kept(self.logits) if self.scored is None else _signed(self.scored)

    @property
    def marks(self) -> NDArray[Any]:
        """What tells whether two evaluations are of the same examples, [N]: labels, or marks."""
        known = self.labels if self.scored is None else self.scored.marks
        assert known is not None
        return known

    @property
    def accuracy(self) -> float:
        """The mean score: the fraction of images whose class is right, or the task's metric; needs
        labels."""
        if self.scored is not None:
            return float(self.scored.scores.mean())
        return float((self.predictions == self.labels).mean())

    def kept(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """As ``predictions``, of the ``outputs`` [n, ...] of another executor for the first n
        examples."""
        if self.scored is None:
            return predicted(outputs)
        return self.scored.task.measure.sign * self.scored.of(outputs)

    def figure(self, outputs: NDArray[Any]) -> float | None:
        """As ``accuracy``, of such ``outputs``; None where nobody knows the labels."""
        if self.scored is not None:
            return float(self.scored.of(outputs).mean())
        if self.labels is None:
            return None
        return float((self.kept(outputs) == self.labels[: len(outputs)]).mean())


def predicted(outputs: NDArray[Any]) -> NDArray[Any]:
    """The class of every example, or of every pixel; of outputs without classes themselves."""
    return outputs.argmax(1) if outputs.ndim > 1 else outputs


def _signed(scored: Scored) -> NDArray[np.float64]:
    return scored.task.measure.sign * scored.scores


def batch_size(shape: Sequence[int]) -> int:
    """How many inputs of ``shape`` are evaluated at once."""
    return min(BATCH, max(1, BATCH_NUMBERS // math.prod(shape)))


@torch.no_grad()
def evaluate(
    predictor: Callable[[Tensor], Any], split: Split, task: Task = CLASSIFICATION
) -> Evaluation:
    """Run ``predictor`` (inputs of ``split`` [N, ...] -> outputs [N, ...], on the CPU) over all of
    it in batches."""
    if task is not CLASSIFICATION:
        return _scored(predictor, split, task)
    size = batch_size(split.shape)
    logits = torch.cat([predictor(images) for images, _ in split.batches(size)])
    return Evaluation(logits.float().numpy(), split.labels.numpy())


def _scored(predictor: Callable[[Tensor], Any], split: Split, task: Task) -> Evaluation:
    scores, marks, rows, targets, size = [], [], [], [], 0
    for images, labels in split.batches(batch_size(split.shape)):
        outputs = real(predictor(images))
        scores.append(task.scores(outputs, labels).numpy())
        marks += [zlib.crc32(each.numpy().tobytes()) for each in labels]
        if size <= CHECKED_BYTES:
            rows.append(joined([each.numpy() for _, each in leaves(outputs)]))
            targets.append(labels)
            size += rows[-1].nbytes
    example = mapped(outputs, lambda _, each: each[:1])
    scored = Scored(
        task, np.concatenate(scores), np.array(marks, np.uint32), example, torch.cat(targets)
    )
    return Evaluation(np.concatenate(rows).astype(np.float32), None, scored)


def real(outputs: Any) -> Any:
    """``outputs`` of any structure with real values in float32."""
    return mapped(outputs, lambda _, each: each.float() if torch.is_floating_point(each) else each)
