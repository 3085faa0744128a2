"""A trained model of a configuration -> its quantized model."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from qstrategies.datasets.base import CalibrationSet, Split
from qstrategies.evaluation import evaluate
from qstrategies.experiment.checks import on_pixels
from qstrategies.experiment.stages import Stage
from qstrategies.models import MODELS
from qstrategies.pixels import PIXEL_SCALE, to_input
from qstrategies.quantization.model import QuantizedModel
from qstrategies.quantization.prepare import Prepared, prepare
from qstrategies.quantization.qat import FakeQuantizedModel
from qstrategies.records import ExperimentConfig
from qstrategies.strategies.base import Strategy
from qstrategies.training.post_training import calibrated, trained_integers


def prepared_for(config: ExperimentConfig, strategy: Strategy, model: nn.Module) -> Prepared:
    """The float ``model`` with the quantizers of ``config``, to be calibrated."""
    quantization = strategy.resolved(config.quantization)
    return prepare(model, quantization, example(config), recipe=strategy, input_scale=PIXEL_SCALE)


def calibration_batches(config: ExperimentConfig, train_split: Split) -> list[Tensor]:
    """The calibration images of ``config`` as models take them."""
    count, seed = config.quantization.calibration_images, config.calibration_seed
    images = CalibrationSet(train_split, count, seed).images
    return [to_input(batch) for batch in images.split(128)]


def example(config: ExperimentConfig) -> Tensor:
    """One batch as the model of ``config`` takes it."""
    return torch.zeros(2, *MODELS.get(config.model).input_shape)  # type: ignore[attr-defined]


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
        return calibrated(prepared_for(config, strategy, model), batches)
    assert tuned is not None and isinstance(tuned.model, FakeQuantizedModel)
    return trained_integers(tuned.model, batches)


def free_scales_accuracy(
    config: ExperimentConfig, strategy: Strategy, splits: dict[str, Split], model: nn.Module
) -> float | None:
    """What a float model would reach without the restriction to exact scales; None where that takes
    another training."""
    if strategy.course.fake_quantized or not config.quantization.exact:
        return None
    free = dataclasses.replace(
        config, quantization=dataclasses.replace(config.quantization, exact=False)
    )
    int8 = quantize_stage(free, strategy, splits["train"], model, None).int8()
    return evaluate(on_pixels(int8), splits["test"]).accuracy
