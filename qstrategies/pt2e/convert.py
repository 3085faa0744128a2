"""From what ``convert_pt2e`` gives to a quantized model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qstrategies.arguments import public
from qstrategies.diagnosis.measure import sqnr
from qstrategies.errors import InputError
from qstrategies.guest import guest
from qstrategies.pt2e.ranges import KnownRanges
from qstrategies.pt2e.read import Converted, read
from qstrategies.quantization.calibrate import (
    Batches,
    as_batches,
    calibration_inputs,
    example_inputs,
)
from qstrategies.quantization.model import QuantizedModel
from qstrategies.quantization.prepare import Prepared, prepare
from qstrategies.quantization.structure import leaves
from qstrategies.records import QuantizationConfig
from qstrategies.training.post_training import calibrated


@dataclass(frozen=True, eq=False, repr=False)
class FromPt2e(QuantizedModel):
    """``agreement``: signal to noise of its outputs beside those of the model that PT2E converted,
    in dB, on the first calibration batch: what the exact grid changes. None without a batch."""

    agreement: float | None = None

    def __repr__(self) -> str:
        shown = super().__repr__()
        if self.agreement is None:
            return shown
        return f"{shown}, {self.agreement:.1f} dB from what PT2E converted"


@public
@guest
def from_pt2e(
    converted: Any,
    calibration: Batches = (),
    *,
    config: QuantizationConfig = QuantizationConfig(),
    input_scale: float | None = None,
) -> FromPt2e:
    """A model that torchao's PT2E quantized, with its weights and its ranges, on the exact grid.
    ``converted`` is not changed.

    Args:
        converted: what ``convert_pt2e`` gives, exported for any number of examples
            (``dynamic_shapes``).
        calibration: batches as for ``qs.quantize``, for the tensors that PT2E left in float, such
            as the output under X86InductorQuantizer; inside known ranges, scales are chosen by
            them too.
        config: bits, observer, engine and exactness.
        input_scale: as for ``qs.quantize``: with it raw pixels are the input of the file.

    Raises:
        InputError: what cannot be read, by name, with the remedy; tensors of unknown range and no
            calibration batch.
        SelfCheckError: the result is not the converted model between its quantizers.
    """
    found = read(converted)
    prepared = _prepared(found, config, input_scale)
    batches = list(as_batches(calibration))
    if not batches:
        _require_ranges(prepared)
        return FromPt2e(**vars(calibrated(prepared, [example_inputs(prepared)])))
    quantized = calibrated(prepared, batches)
    inputs = calibration_inputs(prepared, batches[0], 1)
    return FromPt2e(**vars(quantized), agreement=_agreement(found, quantized, inputs))


def _prepared(found: Converted, config: QuantizationConfig, input_scale: float | None) -> Prepared:
    recipe = KnownRanges(found.ends)
    try:
        return prepare(found.model, config, found.example, recipe=recipe, input_scale=input_scale)
    except InputError as error:
        if found.fixed_batch is None:
            raise
        raise type(error)(
            f"{error} (it was exported for batches of {found.fixed_batch}: give "
            "torch.export.export dynamic_shapes=({0: torch.export.Dim.AUTO},))"
        ) from None


def _require_ranges(prepared: Prepared) -> None:
    unknown = [each.name for each in prepared.activations.values() if not each.seen]
    if unknown:
        raise InputError(
            f"PT2E has no quantizer for {len(unknown)} tensors, {unknown[-1]!r} the last of them: "
            "give calibration batches, which say their range"
        )


@torch.no_grad()
def _agreement(found: Converted, quantized: QuantizedModel, inputs: tuple[Tensor, ...]) -> float:
    both = (found.quantized, quantized.module())
    theirs, ours = (_values(model(*inputs)) for model in both)
    return sqnr(theirs, ours)


def _values(outputs: Any) -> Tensor:
    return torch.cat([each.flatten() for _, each in leaves(outputs) if isinstance(each, Tensor)])
