"""Do data, model and settings fit together? Asked before anything is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qstrategies.datasets.base import Dataset
from qstrategies.datasets.split import CalibrationSet
from qstrategies.errors import InputError
from qstrategies.experiment.quantized import example
from qstrategies.records import ExperimentConfig


@torch.no_grad()
def check_fit(model: nn.Module, config: ExperimentConfig, dataset: Dataset) -> None:
    """Raise ``InputError`` unless ``model`` takes the inputs of ``dataset`` and gives a logit for
    each of its classes, and there are as many calibration images as ``config`` asks for."""
    train = dataset.splits["train"]
    CalibrationSet(train, config.quantization.calibration_images, config.calibration_seed)
    training = model.training
    try:
        outputs = model.eval()(example(train))
    except Exception as error:  # whatever the forward of somebody's model raises
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"model {config.model!r} does not take the inputs of {config.dataset!r}, "
            f"{_described(example(train))}: {reason}"
        ) from None
    finally:
        model.train(training)
    expected = [2, len(dataset.labels)]
    if not isinstance(outputs, Tensor) or list(outputs.shape) != expected:
        found = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InputError(
            f"model {config.model!r} gives {found} for 2 inputs of {config.dataset!r}: expected "
            f"{expected}, a logit for each class"
        )


def _described(inputs: Tensor) -> str:
    sizes = ", ".join(map(str, inputs.shape[1:]))
    return f"[N, {sizes}] of {str(inputs.dtype).removeprefix('torch.')}"
