"""Predictor and split -> Evaluation, with every example's logits kept so that results can be
paired."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qstrategies.datasets.base import Split

BATCH = 200
"""Images per evaluation batch: the float activations of more no longer fit the cache, which costs a
factor of three."""

CHECKED_BYTES = 256 << 20
"""Of the inputs of a split that lies on disk: so many are given to every executor of a file."""


@dataclass(frozen=True)
class Evaluation:
    """Logits [N, classes] float32 and labels [N] (None where nobody knows them) of one predictor on
    one split."""

    logits: NDArray[np.float32]
    labels: NDArray[np.int64] | None

    @property
    def predictions(self) -> NDArray[np.int64]:
        """The predicted class of every image, shape [N]; ties go to the lower class."""
        return self.logits.argmax(1)

    @property
    def accuracy(self) -> float:
        """The fraction of images whose prediction is right; needs labels."""
        assert self.labels is not None
        return float((self.predictions == self.labels).mean())


@torch.no_grad()
def evaluate(predictor: Callable[[Tensor], Tensor], split: Split) -> Evaluation:
    """Run ``predictor`` (inputs of ``split`` [N, ...] -> logits [N, classes]) over all of it in
    batches."""
    logits = torch.cat([predictor(images) for images, _ in split.batches(BATCH)])
    return Evaluation(logits.float().numpy(), split.labels.numpy())
