"""One training loop for every strategy, built to be fast on two CPU cores."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from qstrategies.datasets.split import Batch, Split
from qstrategies.errors import NotFiniteError
from qstrategies.evaluation import evaluate
from qstrategies.guest import guest, own_randomness
from qstrategies.records import Epoch, TrainingConfig, WeightHistogram
from qstrategies.strategies.base import weighted_layers
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
) -> History:
    """Train ``trainee`` and fold it. The same seed gives the same bits.

    Args:
        trainee: its model takes what ``Split.model_inputs`` makes of inputs [N, ...].
        data: the splits "train" and "validation"; no other is looked at.
        on_epoch: called with the epoch's number (from 1) and its figures.

    Raises:
        TrainingDivergedError: the loss became infinite or NaN.
    """
    torch.manual_seed(seed)
    target, model = device(), trainee.model
    model.to(target)
    if len(data["train"].shape) == 3:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    view = fast_view(model)
    trainee.total = max(1, len(data["train"]) // config.batch_size) * config.epochs
    optimizer, schedule = _optimizer(trainee, config)
    order = torch.Generator().manual_seed(seed)
    split = data["train"].to(target)
    curve, histograms = [], []
    for number in range(1, config.epochs + 1):
        started = time.perf_counter()
        model.train()
        chunks = _chunks(len(split), config.batch_size, order)
        drawn = seed * 2**32 + number * 2**20  # numbers of examples are below their distances
        losses = [
            _step(view, trainee, optimizer, schedule, _as_inputs(split, batch, target))
            for batch in split.training_batches(chunks, drawn)
        ]
        seconds = time.perf_counter() - started
        curve.append(
            Epoch(
                loss=math.fsum(losses) / len(losses),
                accuracy=_accuracy(view, data["validation"]),
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


def _chunks(count: int, size: int, order: torch.Generator) -> list[Tensor]:
    """The indices of each batch, of ``size`` all, unless there are fewer examples."""
    chunks = torch.randperm(count, generator=order).split(size)
    return [chunk for chunk in chunks if len(chunk) == size or len(chunks) == 1]


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
    batch: Batch,
) -> float:
    inputs, labels = batch
    dtype = compute_dtype()
    try:
        with torch.autocast(inputs.device.type, dtype, enabled=dtype != torch.float32):
            logits = view(inputs)
    except NotFiniteError as error:
        raise TrainingDivergedError(str(error)) from None

    def criterion(outputs: Tensor) -> Tensor:
        return functional.cross_entropy(outputs.float(), labels)

    loss = criterion(logits) + trainee.penalty(logits, (inputs,), criterion)
    value = loss.item()
    if not math.isfinite(value):
        raise TrainingDivergedError(f"training loss is {value}")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    trainee.after_step()
    return value


def _accuracy(model: nn.Module, split: Split) -> float:
    where = next(model.parameters()).device
    model.eval()
    inputs = split.model_inputs
    return evaluate(lambda images: model(inputs(images.to(where))).cpu(), split).accuracy
