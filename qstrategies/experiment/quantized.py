"""A trained model of a configuration -> its quantized model."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from qstrategies.datasets.base import Dataset
from qstrategies.datasets.split import CalibrationSet, Split
from qstrategies.evaluation import evaluate
from qstrategies.experiment.checks import on_pixels
from qstrategies.experiment.stages import Stage
from qstrategies.quantization.model import QuantizedModel
from qstrategies.quantization.prepare import Prepared, prepare
from qstrategies.quantization.qat import FakeQuantizedModel
from qstrategies.records import ExperimentConfig
from qstrategies.strategies.base import Strategy
from qstrategies.training.post_training import calibrated, trained_integers


def prepared_for(
    config: ExperimentConfig, strategy: Strategy, model: nn.Module, train_split: Split
) -> Prepared:
    """The float ``model`` with the quantizers of ``config``, to be calibrated."""
    quantization = strategy.resolved(config.quantization)
    return prepare(
        model,
        quantization,
        example(train_split),
        recipe=strategy,
        input_scale=train_split.scale,
    )


def calibration_batches(config: ExperimentConfig, train_split: Split) -> list[Tensor]:
    """The calibration images of ``config`` as models take them."""
    count, seed = config.quantization.calibration_images, config.calibration_seed
    images = CalibrationSet(train_split, count, seed).images
    return [train_split.model_inputs(batch) for batch in images.split(128)]


def example(split: Split) -> Tensor:
    """One batch of zeros as models take inputs of ``split``."""
    inputs = split.model_inputs(split.first(2).images)
    return torch.zeros(inputs.shape, dtype=inputs.dtype)


def quantize_stage(
    config: ExperimentConfig,
    strategy: Strategy,
    train_split: Split,
    model: nn.Module,
    tuned: Stage | None,
) -> QuantizedModel:
    """Calibrate a float model (PTQ) or take the trained quantizers (QAT), and put everything on its
    integer grid."""
    batches = calibration_batches(config, train_split)
    if not strategy.course.fake_quantized:
        return calibrated(prepared_for(config, strategy, model, train_split), batches)
    assert tuned is not None and isinstance(tuned.model, FakeQuantizedModel)
    return trained_integers(tuned.model, batches)


def free_scales_accuracy(
    config: ExperimentConfig, strategy: Strategy, dataset: Dataset, model: nn.Module
) -> float | None:
    """What a float model would reach without the restriction to exact scales; None where that takes
    another training."""
    if strategy.course.fake_quantized or not config.quantization.exact:
        return None
    settings = dataclasses.replace(config.quantization, exact=False, fixed_point=False)
    free = dataclasses.replace(config, quantization=settings)
    int8 = quantize_stage(free, strategy, dataset.splits["train"], model, None).int8()
    return evaluate(on_pixels(int8), dataset.splits["test"], dataset.task).accuracy
