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
from qstrategies.evaluation import evaluate
from qstrategies.guest import guest, own_randomness
from qstrategies.pixels import to_input
from qstrategies.records import Epoch, TrainingConfig, WeightHistogram
from qstrategies.strategies.base import Strategy, weighted_layers
from qstrategies.training.fast_graph import fast_view
from qstrategies.training.hardware import compute_dtype, device
from qstrategies.training.histogram import weight_histogram


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
    model: nn.Module,
    strategy: Strategy,
    data: dict[str, Split],
    config: TrainingConfig,
    seed: int,
    on_epoch: Callable[[int, Epoch], None] | None = None,
) -> History:
    """Train ``model`` in place, with the hooks of ``strategy``, and fold it. The same seed gives
    the same bits.

    Args:
        model: takes images [N, C, H, W] in [0, 1]; float, or fake-quantized.
        data: the splits "train" and "validation"; no other is looked at.
        on_epoch: called with the epoch's number (from 1) and its figures.

    Raises:
        TrainingDivergedError: the loss became infinite or NaN.
    """
    torch.manual_seed(seed)
    target = device()
    model.to(target).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    strategy.parametrize(model)
    view = fast_view(model)
    optimizer, schedule = _optimizer(model, config, len(data["train"]))
    order = torch.Generator().manual_seed(seed)
    images, labels = data["train"].images.to(target), data["train"].labels.to(target)
    curve, histograms = [], []
    for number in range(1, config.epochs + 1):
        started = time.perf_counter()
        model.train()
        batches = torch.randperm(len(labels), generator=order).to(target).split(config.batch_size)
        losses = [
            _step(view, strategy, optimizer, schedule, images[batch], labels[batch])
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
    strategy.fold(model)
    model.cpu().eval()
    return History(tuple(curve), tuple(histograms))


def _optimizer(
    model: nn.Module, config: TrainingConfig, images: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    rate, steps = config.learning_rate, max(1, images // config.batch_size) * config.epochs
    parameters = list(model.parameters())
    optimizer: torch.optim.Optimizer
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(parameters, lr=rate, momentum=0.9, nesterov=True)
    else:
        optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer](
            parameters, lr=rate, fused=True
        )
    schedules = torch.optim.lr_scheduler
    if config.schedule == "one_cycle":
        return optimizer, schedules.OneCycleLR(optimizer, rate, total_steps=steps + 1)
    if config.schedule == "cosine":
        return optimizer, schedules.CosineAnnealingLR(optimizer, steps)
    return optimizer, schedules.ConstantLR(optimizer, factor=1.0)


def _step(
    view: nn.Module,
    strategy: Strategy,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    images: Tensor,
    labels: Tensor,
) -> float:
    dtype = compute_dtype()
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        logits = view(to_input(images, dtype))
    loss = functional.cross_entropy(logits.float(), labels)
    extra = strategy.loss(view)
    if extra is not None:
        loss = loss + extra
    value = loss.item()
    if not math.isfinite(value):
        raise TrainingDivergedError(f"training loss is {value}")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    with torch.no_grad():
        strategy.after_step(view)
    return value


def _accuracy(model: nn.Module, split: Split) -> float:
    where = next(model.parameters()).device
    model.eval()
    return evaluate(lambda images: model(to_input(images.to(where))).cpu(), split).accuracy
