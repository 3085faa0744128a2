"""Post-training quantization of any traceable float model in one call."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from torch import nn

from qstrategies.guest import guest
from qstrategies.quantization.calibrate import calibrate
from qstrategies.quantization.model import QuantizedModel
from qstrategies.quantization.prepare import prepare
from qstrategies.quantization.selfcheck import EXAMPLES, check_nodes
from qstrategies.records import QuantizationConfig


@guest
def quantize(
    model: nn.Module,
    calibration: Iterable[Any],
    example: Any,
    *,
    config: QuantizationConfig = QuantizationConfig(),
    input_scale: float | None = None,
    leave_in_float: Collection[str | type[nn.Module]] = (),
) -> QuantizedModel:
    """Quantize a trained float model. ``model`` is not changed.

    Args:
        calibration: batches of real-valued inputs as ``model`` takes them, from training data:
            tensors or arrays, tuples (labels behind the inputs are left out) or dicts by name;
            uint8 where ``input_scale`` says what a step is worth.
        example: one such batch; its shapes without the first dimension are those of the exported
            file.
        config: bits, observer, engine and exactness.
        input_scale: the real value of one pixel step where inputs are scaled pixels (1 / 255 for
            images in [0, 1]), which makes the raw pixels the input of the file; None to quantize
            inputs over their observed range.
        leave_in_float: names (``"features.3"``) or types of modules to leave unquantized.

    Raises:
        InputError: no calibration batch, one that does not fit, an unknown name, or a model that
            cannot be captured.
        SelfCheckError: the result is not the user's model (``selfcheck.py``).
    """
    prepared = prepare(
        model, config, example, input_scale=input_scale, leave_in_float=leave_in_float
    )
    first = calibrate(prepared, calibration)
    quantized = QuantizedModel.of(prepared)
    check_nodes(prepared, quantized.graph, [tensor[:EXAMPLES] for tensor in first])
    return quantized
