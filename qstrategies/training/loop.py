"""One training loop for every strategy, built to be fast on two CPU cores."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from qstrategies.datasets.base import Split
from qstrategies.errors import NotFiniteError
from qstrategies.evaluation import evaluate
from qstrategies.guest import guest, own_randomness
from qstrategies.pixels import to_input
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
        trainee: its model takes images [N, C, H, W] in [0, 1].
        data: the splits "train" and "validation"; no other is looked at.
        on_epoch: called with the epoch's number (from 1) and its figures.

    Raises:
        TrainingDivergedError: the loss became infinite or NaN.
    """
    torch.manual_seed(seed)
    target, model = device(), trainee.model
    model.to(target).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    view = fast_view(model)
    trainee.total = max(1, len(data["train"]) // config.batch_size) * config.epochs
    optimizer, schedule = _optimizer(trainee, config)
    order = torch.Generator().manual_seed(seed)
    images, labels = data["train"].images.to(target), data["train"].labels.to(target)
    curve, histograms = [], []
    for number in range(1, config.epochs + 1):
        started = time.perf_counter()
        model.train()
        batches = torch.randperm(len(labels), generator=order).to(target).split(config.batch_size)
        losses = [
            _step(view, trainee, optimizer, schedule, (images[batch], labels[batch]))
            for batch in batches
            if len(batch) == config.batch_size or len(batches) == 1
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
    batch: tuple[Tensor, Tensor],
) -> float:
    images, labels = batch
    dtype = compute_dtype()
    inputs = to_input(images, dtype)
    try:
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
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
    return evaluate(lambda images: model(to_input(images.to(where))).cpu(), split).accuracy
