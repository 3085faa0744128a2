"""Post-training quantization of any traceable float model in one call, and what follows on
calibration or training."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from torch import nn

from qstrategies.arguments import public
from qstrategies.errors import InputError
from qstrategies.guest import guest
from qstrategies.onnx_model import from_onnx
from qstrategies.quantization.calibrate import (
    Batches,
    as_batches,
    calibrate,
    calibration_batches,
    example_inputs,
)
from qstrategies.quantization.model import QuantizedModel
from qstrategies.quantization.noise_check import warn_of_noise
from qstrategies.quantization.prepare import Prepared, allotted, prepare
from qstrategies.quantization.qat import FakeQuantizedModel, finished
from qstrategies.quantization.recipe import sees_batches
from qstrategies.quantization.selfcheck import EXAMPLES, check_nodes
from qstrategies.quantization.structure import as_module
from qstrategies.records import QuantizationConfig
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Strategy


@public
@guest
def quantize(  # noqa: PLR0913 - one keyword per setting
    model: nn.Module | str | Path,
    calibration: Batches,
    example: Any,
    *,
    config: QuantizationConfig = QuantizationConfig(),
    strategy: str | Strategy = "no_norm",
    input_scale: float | None = None,
    leave_in_float: Collection[str | type[nn.Module]] = (),
) -> QuantizedModel:
    """Quantize a trained float model. ``model`` is not changed.

    Args:
        model: itself, or the path of a float ONNX file.
        calibration: batches of real-valued inputs as ``model`` takes them, from training data:
            tensors or arrays on any device, tuples (labels behind the inputs are left out) or dicts
            by name; uint8 where ``input_scale`` says what a step is worth. A loader, a dataset of
            PyTorch, or one tensor, array or dict of all.
        example: one such batch; its shapes without the first dimension are those of the exported
            file.
        config: bits, observer, engine and exactness.
        strategy: what it does after training, by name, or one with options; ``qs.prepare`` trains.
        input_scale: the real value of one pixel step where inputs are scaled pixels (1 / 255 for
            images in [0, 1]), which makes the raw pixels the input of the file; None to quantize
            inputs over their observed range.
        leave_in_float: names (``"features.3"``) or types of modules to leave unquantized.

    Raises:
        InputError: no calibration batch, one that does not fit, an unknown name, a strategy that
            trains with fake quantizers, or a model that cannot be captured.
        SelfCheckError: the result is not the user's model (``selfcheck.py``).
    """
    chosen = STRATEGIES.made(strategy)
    if chosen.course.fake_quantized:
        raise InputError(f"{strategy!r} trains with fake quantizers: use qs.prepare and its finish")
    if isinstance(model, str | Path):
        model = from_onnx(model, _one_shape(example))
    prepared = prepare(
        as_module(model),
        chosen.resolved(config),
        example,
        recipe=chosen,
        input_scale=input_scale,
        leave_in_float=leave_in_float,
    )
    return calibrated(prepared, calibration)


def _one_shape(example: Any) -> tuple[int, ...] | None:
    """That of one input without the batch; None for several inputs."""
    shape = getattr(example, "shape", None)
    return None if shape is None else tuple(shape[1:])


def calibrated(prepared: Prepared, calibration: Batches) -> QuantizedModel:
    """``prepared`` with the ranges of ``calibration``, as integers."""
    given = as_batches(calibration)
    batches = list(given) if sees_batches(prepared.recipe) else given
    if isinstance(batches, list):
        prepared = allotted(prepared, calibration_batches(prepared, batches))
    first = calibrate(prepared, batches)
    return integers(prepared, batches if isinstance(batches, list) else [first])


def integers(prepared: Prepared, calibration: Iterable[Any]) -> QuantizedModel:
    """Calibrated or trained forms, refined and rounded as their recipe says, and checked.

    Raises:
        SelfCheckError: a node that is not its float form.
    """
    batches = calibration_batches(prepared, calibration)
    prepared.recipe.refine(prepared, batches)
    quantized = QuantizedModel.of(prepared, batches)
    inputs = [each[:EXAMPLES] for each in (batches[0] if batches else example_inputs(prepared))]
    outputs = check_nodes(prepared, quantized.graph, inputs)
    warn_of_noise(prepared, quantized, inputs, outputs)
    return quantized


def trained_integers(model: FakeQuantizedModel, calibration: Batches) -> QuantizedModel:
    """What was trained with fake quantizers, as integers. ``model`` is not changed."""
    trained, batches = copy.deepcopy(model).cpu().eval(), list(as_batches(calibration))
    trained.forms.recipe.settle(trained, calibration_batches(trained.forms, batches))
    return integers(finished(trained), batches)
