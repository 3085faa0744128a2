"""One training loop for every strategy, built to be fast on two CPU cores."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qstrategies.datasets.split import Batch, Split
from qstrategies.errors import NotFiniteError
from qstrategies.evaluation import evaluate, real
from qstrategies.guest import guest, own_randomness
from qstrategies.quantization.qat import FakeQuantizedModel
from qstrategies.quantization.structure import mapped
from qstrategies.records import Epoch, TrainingConfig, WeightHistogram
from qstrategies.strategies.base import weighted_layers
from qstrategies.tasks import CLASSIFICATION, Task
from qstrategies.training.fast_graph import fast_view
from qstrategies.training.hardware import compute_dtype, device
from qstrategies.training.histogram import weight_histogram
from qstrategies.training.trainee import Trainee


class TrainingDivergedError(RuntimeError):
    """The loss was not finite; the run fails, the comparison goes on."""


@dataclass(frozen=True)
class History:
    """What training left besides the weights."""

    curve: tuple[Epoch, ...]
    histograms: tuple[WeightHistogram, ...]


@guest
@own_randomness()
def train(
    trainee: Trainee,
    data: dict[str, Split],
    config: TrainingConfig,
    seed: int,
    on_epoch: Callable[[int, Epoch], None] | None = None,
    task: Task = CLASSIFICATION,
) -> History:
    """Train ``trainee`` and fold it. The same seed gives the same bits.

    Args:
        trainee: its model takes what ``Split.model_inputs`` makes of inputs [N, ...].
        data: the splits "train" and "validation"; no other is looked at.
        on_epoch: called with the epoch's number (from 1) and its figures.
        task: whose loss is trained, and whose metric of the validation split is noted down.

    Raises:
        TrainingDivergedError: the loss became infinite or NaN.
    """
    torch.manual_seed(seed)
    target, model = device(), trainee.model
    model.to(target)
    if len(data["train"].shape) == 3:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    view = fast_view(model)
    trainee.total = steps_of(config, len(data["train"]))
    optimizer, schedule = _optimizer(trainee, config)
    order = torch.Generator().manual_seed(seed)
    split = data["train"].to(target)
    curve, histograms = [], []
    for number in range(1, config.epochs + 1):
        started = time.perf_counter()
        model.train()
        chunks = _chunks(len(split), config.batch_size, order)
        drawn = seed * 2**32 + number * 2**22  # numbers of examples are below their distances
        losses = [
            _step(
                view, trainee, optimizer, schedule, _Given(task, *_as_inputs(split, batch, target))
            )
            for batch in split.training_batches(chunks, drawn)
        ]
        seconds = time.perf_counter() - started
        curve.append(
            Epoch(
                loss=math.fsum(losses) / len(losses),
                accuracy=_metric(view, trainee, data["validation"], task),
                seconds=seconds,
            )
        )
        if on_epoch is not None:
            on_epoch(number, curve[-1])
        if number in (1, config.epochs):
            histograms.append(
                weight_histogram(
                    [layer.weight for layer in weighted_layers(model)], "training", number
                )
            )
    trainee.fold()
    return History(tuple(curve), tuple(histograms))


def steps_of(config: TrainingConfig, count: int) -> int:
    """How many steps a training on ``count`` examples has."""
    return max(1, count // config.batch_size) * config.epochs


def _chunks(count: int, size: int, order: torch.Generator) -> list[Tensor]:
    """The indices of each batch, of ``size`` all, unless there are fewer examples."""
    chunks = torch.randperm(count, generator=order).split(size)
    return [chunk for chunk in chunks if len(chunk) == size or len(chunks) == 1]


@dataclass(frozen=True)
class _Given:
    """One batch: what the model takes, and what is asked of it."""

    task: Task
    inputs: Tensor
    targets: Tensor

    def criterion(self, outputs: Any) -> Tensor:
        """The loss of ``outputs``."""
        return self.task.loss(real(outputs), self.targets)


def _as_inputs(split: Split, batch: Batch, target: torch.device) -> Batch:
    """What the model takes, in the dtype that is computed in, and the labels."""
    images, labels = (tensor.to(target) for tensor in batch)
    return split.model_inputs(images, compute_dtype()), labels


def _optimizer(
    trainee: Trainee, config: TrainingConfig
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    rate, steps = config.learning_rate, trainee.total or 1
    parameters = trainee.parameter_groups(rate)
    optimizer: torch.optim.Optimizer
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(parameters, lr=rate, momentum=0.9, nesterov=True)
    else:
        optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer](
            parameters, lr=rate, fused=True
        )
    schedules = torch.optim.lr_scheduler
    if config.schedule == "one_cycle":
        peaks = [group["lr"] for group in optimizer.param_groups]
        return optimizer, schedules.OneCycleLR(optimizer, peaks, total_steps=steps + 1)
    if config.schedule == "cosine":
        return optimizer, schedules.CosineAnnealingLR(optimizer, steps)
    return optimizer, schedules.ConstantLR(optimizer, factor=1.0)


def _step(
    view: nn.Module,
    trainee: Trainee,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    given: _Given,
) -> float:
    inputs = given.inputs
    dtype = compute_dtype()
    try:
        with torch.autocast(inputs.device.type, dtype, enabled=dtype != torch.float32):
            outputs = _structured(trainee.model, view(inputs))
    except NotFiniteError as error:
        raise TrainingDivergedError(str(error)) from None

    loss = given.criterion(outputs) + trainee.penalty(outputs, (inputs,), given.criterion)
    value = loss.item()
    if not math.isfinite(value):
        raise TrainingDivergedError(f"training loss is {value}")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    trainee.after_step()
    return value


def _metric(view: nn.Module, trainee: Trainee, split: Split, task: Task) -> float:
    where = next(view.parameters()).device
    view.eval()

    def predictor(images: Tensor) -> Any:
        outputs = _structured(trainee.model, view(split.model_inputs(images.to(where))))
        return mapped(outputs, lambda _, each: each.cpu())

    return evaluate(predictor, split, task).accuracy


def _structured(model: nn.Module, outputs: Any) -> Any:
    """What a view of ``model`` gives, as ``model`` gives it."""
    return model.structured(outputs) if isinstance(model, FakeQuantizedModel) else outputs
