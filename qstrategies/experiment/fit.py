"""Do data, model and settings fit together? Asked before anything is trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qstrategies.datasets.base import Dataset
from qstrategies.datasets.split import CalibrationSet
from qstrategies.errors import InputError, first_line
from qstrategies.evaluation import real
from qstrategies.experiment.checkpoint import is_trained
from qstrategies.experiment.quantized import example
from qstrategies.records import ExperimentConfig
from qstrategies.records.configs import CALIBRATION_IMAGES
from qstrategies.strategies import STRATEGIES
from qstrategies.tasks import CLASSIFICATION, check_targets
from qstrategies.training.loop import steps_of

FEW_STEPS = 20
"""Running statistics of batch norm, whose momentum is 0.1, still hold an eighth of where they
began."""


@torch.no_grad()
def check_fit(model: nn.Module, config: ExperimentConfig, dataset: Dataset) -> None:
    """Raise ``InputError`` unless ``model`` takes the inputs of ``dataset`` and gives a logit for
    each of its classes, and there are as many calibration images as ``config`` asks for."""
    train = dataset.splits["train"]
    _check_strategy(config, dataset)
    CalibrationSet(train, config.quantization.calibration_images, config.calibration_seed)
    training = model.training
    try:
        outputs = model.eval()(example(train))
    except Exception as error:  # whatever the forward of somebody's model raises
        raise InputError(
            f"model {config.model!r} does not take the inputs of {config.dataset!r}, "
            f"{_described(example(train))}: {first_line(error)}"
        ) from None
    finally:
        model.train(training)
    if dataset.task is not CLASSIFICATION:
        _check_task(outputs, config, dataset)
        return
    expected = [2, len(dataset.labels)]
    if not isinstance(outputs, Tensor) or list(outputs.shape) != expected:
        found = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InputError(
            f"model {config.model!r} gives {found} for 2 inputs of {config.dataset!r}: expected "
            f"{expected}, a logit for each class"
        )


def notes(config: ExperimentConfig, dataset: Dataset) -> tuple[str, ...]:
    """What somebody who reads the figures of ``config`` should know."""
    found = [f"data {config.dataset!r}: {note}" for note in dataset.notes]
    count = len(dataset.splits["train"])
    if config.quantization.calibration_images == CALIBRATION_IMAGES > count:
        found.append(f"ranges are calibrated on all {count} training examples that there are")
    course = STRATEGIES.get(config.strategy).course
    trainings = {} if is_trained(config) else {course.parent or config.strategy: config.training}
    if course.parent and course.schedule:
        trainings[config.strategy] = getattr(config, course.schedule)
    for name, schedule in trainings.items():
        steps = steps_of(schedule, count)
        if steps < FEW_STEPS:
            found.append(
                f"{name!r} trains for {steps} steps in all ({schedule.epochs} epochs of {count} "
                f"examples in batches of {schedule.batch_size}), which is little to judge it by: "
                "ask for more epochs, or smaller batches"
            )
    return tuple(found)


def _check_strategy(config: ExperimentConfig, dataset: Dataset) -> None:
    """Raise ``InputError`` for a strategy of classes where the task has none."""
    kind = STRATEGIES.get(config.strategy)
    kinds = (kind, *getattr(kind, "parts", ()))
    if not dataset.task.classes and any(each.compares_classes for each in kinds):
        raise InputError(
            f"{config.strategy!r} compares logits of classes: the task of {config.dataset!r} has "
            "none; leave it out"
        )


def _check_task(outputs: Any, config: ExperimentConfig, dataset: Dataset) -> None:
    """Raise ``InputError`` unless loss and score of the task take ``outputs`` of two examples."""
    task, targets = dataset.task, dataset.splits["train"].first(2).labels
    if task.classes and isinstance(outputs, Tensor) and outputs.dim() > 1:
        for name, split in dataset.splits.items():
            what = f"targets of {name!r} of {config.dataset!r}"
            check_targets(task, split.labels, what, outputs.shape[1])
    try:
        loss = task.loss(real(outputs), targets)
        task.scores(real(outputs), targets)
    except InputError:
        raise
    except Exception as error:  # whatever the functions of a user raise
        raise InputError(
            f"the task of {config.dataset!r} does not take what model {config.model!r} gives, with "
            f"targets {_described(targets)}: {first_line(error)}"
        ) from None
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise InputError(f"the loss of the task of {config.dataset!r} must give a single number")


def _described(inputs: Tensor) -> str:
    sizes = ", ".join(["N", *map(str, inputs.shape[1:])])
    return f"[{sizes}] of {str(inputs.dtype).removeprefix('torch.')}"
