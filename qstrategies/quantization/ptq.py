"""Post-training quantization of any traceable float model in one call."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from torch import Tensor, nn

from qstrategies.errors import InputError
from qstrategies.guest import guest
from qstrategies.quantization.convert import QuantizedModel, calibrate, finalize
from qstrategies.quantization.prepare import prepare
from qstrategies.records import QuantizationConfig

Inputs = Tensor | tuple[Tensor, ...]


@guest
def quantize(
    model: nn.Module,
    calibration: Iterable[Inputs],
    example: Inputs,
    *,
    config: QuantizationConfig = QuantizationConfig(),
    input_scale: float | None = None,
    leave_in_float: Collection[str | type[nn.Module]] = (),
) -> QuantizedModel:
    """Quantize a trained float model. ``model`` is not changed.

    Args:
        calibration: batches of real-valued inputs as ``model`` takes them, from training data; a tuple where it takes several.
        example: one such batch; its shapes without the first dimension are those of the exported file.
        config: bits, observer, engine and exactness.
        input_scale: the real value of one pixel step where inputs are scaled pixels (1 / 255 for images in [0, 1]), which
            makes the raw pixels the input of the file; None to quantize inputs over their observed range.
        leave_in_float: names (``"features.3"``) or types of modules to leave unquantized.

    Raises:
        InputError: no calibration batch, an unknown name, or a module that can be neither traced nor quantized.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    prepared = prepare(model, config, inputs, qat=False, input_scale=input_scale, leave_in_float=leave_in_float)
    outputs = prepared.graph.output_node().args[0]
    if not hasattr(outputs, "users"):
        raise InputError(f"{type(model).__name__} returns {type(outputs).__name__}: expected one tensor")
    calibrate(prepared, calibration)
    return finalize(prepared, config, [tuple(tensor.shape[1:]) for tensor in inputs])
