"""Does the file compute what the quantized model computes? Run once, in ONNX Runtime without its
optimizations."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import torch

from qstrategies.errors import SelfCheckError, first_line
from qstrategies.guest import level_outside
from qstrategies.operators.base import Array, TensorSpec
from qstrategies.quantization.model import QuantizedModel
from qstrategies.quantization.structure import leaves
from qstrategies.runtimes.onnx_runtime import plain_session

EXAMPLES, OTHER_EXAMPLES = 3, (1, 7)
"""So many inputs, and beside them others for parts in float, whose export may have taken a decision
by how many there are."""
FEW_STEPS, MOST_NOISE = 2.0, 0.1
"""Float islands round in each executor as it likes, which may move a value over a tie, and on from
there: through the twelve blocks of a vision transformer to a noise of 0.6 % of the power. An
operator that is lost leaves as much noise as signal."""


def check_file(quantized: QuantizedModel, model: onnx.ModelProto) -> None:
    """Raise ``SelfCheckError`` unless ``model`` gives the results of ``quantized`` on random
    integers.

    The same bits, but where parts stay in float or scales are free: there within ``FEW_STEPS`` of
    the output's quantizer, or with ``MOST_NOISE`` of the signal's power.
    """
    for count in (EXAMPLES, *(OTHER_EXAMPLES if quantized.islands else ())):
        _check(quantized, model, count)


def _check(quantized: QuantizedModel, model: onnx.ModelProto, count: int) -> None:
    inputs = [random_input(spec, count) for spec in quantized.graph.inputs]
    expected = _expected(quantized, inputs)
    found = _run(model, quantized, inputs)
    strict = quantized.config.exact and not quantized.islands
    for spec, name, ours, theirs in zip(
        quantized.graph.outputs, quantized.output_names, expected, found, strict=True
    ):
        if ours.shape != theirs.shape:
            raise SelfCheckError(
                f"output {name!r} of the file has the shape {theirs.shape} instead of {ours.shape}"
            )
        if _agree(spec, ours, theirs, strict=strict):
            continue
        if strict or not np.issubdtype(ours.dtype, np.integer):
            raise SelfCheckError(
                f"output {name!r} of the file differs from the quantized model it was written from"
            )
        if count == EXAMPLES:
            _warn_of_choices(name, float((ours != theirs).mean()))


def _warn_of_choices(name: str, apart: float) -> None:
    warnings.warn(
        f"output {name!r} of the file differs from the quantized model's in {apart:.0%} of its "
        "whole numbers for random inputs: of equal values, as topk and argmax choose among, "
        "executors take another. Compare with qs.cross_check",
        stacklevel=level_outside(),
    )


def random_input(spec: TensorSpec, count: int) -> Array:
    """``count`` inputs: integers over their whole range, zeros for what is not quantized."""
    sizes = [count if size is None else size for size in spec.shape]
    if spec.quantizer is None:
        return np.zeros(sizes, np.dtype(str(spec.dtype).removeprefix("torch.")))
    return np.random.default_rng(0).integers(0, 256, sizes, np.uint8)


def _expected(quantized: QuantizedModel, inputs: list[Array]) -> list[Array]:
    result = quantized.reference()(*(torch.from_numpy(each) for each in inputs))
    return [each.numpy() for _, each in leaves(result) if each is not None]


def _run(model: onnx.ModelProto, quantized: QuantizedModel, inputs: list[Array]) -> list[Array]:
    try:
        session = plain_session(model.SerializeToString())
        feeds: dict[str, Any] = {}
        for entry, array, spec in zip(session.get_inputs(), inputs, quantized.inputs, strict=True):
            real = entry.type == "tensor(float)" and spec.scale is not None
            feeds[entry.name] = spec.reals(torch.from_numpy(array)).numpy() if real else array
        return [np.asarray(each) for each in session.run(list(quantized.output_names), feeds)]
    except Exception as error:
        raise SelfCheckError(f"ONNX Runtime cannot run the file: {first_line(error)}") from None


def _agree(spec: TensorSpec, ours: Array, theirs: Array, *, strict: bool) -> bool:
    if strict or not np.issubdtype(ours.dtype, np.floating):
        return bool(np.array_equal(ours, theirs))
    step = 0.0 if spec.quantizer is None else spec.quantizer.scale
    difference = np.abs(ours.astype(np.float64) - theirs)
    noise, signal = (
        float(np.square(difference).sum()),
        float(np.square(ours, dtype=np.float64).sum()),
    )
    return bool(difference.max(initial=0) <= FEW_STEPS * step or noise <= MOST_NOISE * signal)
