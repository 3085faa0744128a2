"""One int8 model in every executor against reference outputs, in steps of the output scale."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qstrategies.arguments import public
from qstrategies.errors import InputError, first_line
from qstrategies.evaluation import Evaluation, batch_size
from qstrategies.execution.distance import (
    Outputs,
    Steps,
    compare,
    distance,
    unexplained,
    verdict,
)
from qstrategies.export.forms import MAKERS
from qstrategies.export.onnx_export import ExportedModel
from qstrategies.guest import guest
from qstrategies.quantization.model import QuantizedModel
from qstrategies.quantization.structure import as_tensor, leaves
from qstrategies.records import ENGINES, RuntimeCheck, Skipped
from qstrategies.runtimes import RUNTIMES, runtimes_for
from qstrategies.runtimes.base import Runtime, joined, refusing
from qstrategies.text import line

REFERENCE = "onnxruntime-disabled"
"""The runtime that computes every node of a file as it stands."""


@dataclass(frozen=True)
class CrossCheck:
    """Every executor against PyTorch's int8 module with the configured engine. ``print`` shows it
    as a table."""

    checks: tuple[RuntimeCheck, ...]
    skipped: tuple[Skipped, ...]

    @property
    def same(self) -> bool:
        """Whether all gave the same bits but those of which it is known what they compute instead:
        see ``Runtime.rewriting``."""
        return not any(unexplained(check) for check in self.checks)

    @property
    def apart(self) -> list[str]:
        """The executors that gave other bits."""
        return list(dict.fromkeys(check.runtime for check in self.checks if check.rows_equal < 1))

    def __repr__(self) -> str:  # at a prompt and in a notebook
        return str(self)

    def __str__(self) -> str:
        lines = [
            f"{'executor':<22} {'file':<22} {'examples':>8} {'rows equal':>11} {'max steps':>10}"
        ]
        for check in self.checks:
            lines.append(
                f"{check.runtime:<22} {check.file:<22} {check.images:>8} "
                f"{check.rows_equal:>11.2%} {distance(check.max_steps):>10}"
            )
            if check.first_difference:
                lines.append(line(f"{'':<22} first difference: {check.first_difference}"))
            if check.known:
                lines.append(line(f"{'':<22} known: {check.known}"))
        lines += [
            line(f"{item.runtime:<22} {item.file or '':<22} skipped: {item.reason}")
            for item in self.skipped
        ]
        return "\n".join([*lines, verdict(self.same, self.apart)])


@public
@guest
def cross_check(
    exported: ExportedModel | Sequence[ExportedModel],
    inputs: Any,
    runtimes: Iterable[str] | None = None,
) -> CrossCheck:
    """Run ``inputs`` through PyTorch's engines and through every installed runtime (or those
    named).

    Args:
        exported: what ``export_onnx`` returned.
        inputs: one tensor or array [N, ...] per input of the model, several as a tuple or list:
            real values as the float model takes them, or uint8 values that are taken to be the
            integers of the input's quantizer (raw pixels).

    Raises:
        InputError: an unknown runtime, another number of inputs than the model has, no example, or
            outputs without one row per example.
    """
    files = [exported] if isinstance(exported, ExportedModel) else list(exported)
    quantized = files[0].quantized if files else None
    if quantized is None:
        raise InputError("there is no int8 export: expected what qs.export_onnx gives")
    tensors = _tensors(inputs, len(quantized.inputs))
    for name, output in zip(quantized.output_names, quantized.graph.outputs, strict=True):
        if output.shape[:1] != (None,):
            raise InputError(
                f"output {name!r} has the shape {list(output.shape)}, and no examples in its first "
                "dimension: give it one there, or leave it out"
            )
    integers = [
        spec.integers(tensor) for spec, tensor in zip(quantized.inputs, tensors, strict=True)
    ]
    names = None if runtimes is None else list(runtimes)
    exact = quantized.config.exact
    module = (
        quantized.reference() if exact else quantized.int8()
    )  # free scales: whatever the configured kernels make of them
    reference = Evaluation(run_module(module, quantized, integers), None)
    checks, engines_skipped = check_engines(quantized, integers, reference)
    skipped = [*engines_skipped]
    for file in files:
        found, left_out = check_runtimes(
            file.path, file.inputs(*tensors), reference, output_steps(quantized), names
        )
        checks += found
        skipped += left_out
    return CrossCheck(tuple(checks), tuple(dict.fromkeys(skipped)))


def _tensors(inputs: Any, expected: int) -> list[Tensor]:
    """``inputs`` as one tensor for each of the ``expected`` inputs of a model."""
    given = inputs if isinstance(inputs, tuple | list) else [inputs]
    if len(given) != expected:
        raise InputError(
            f"got {len(given)} inputs: expected {expected}, each a tensor of examples, without "
            "labels"
        )
    tensors = [as_tensor(each) for each in given]
    if not all(tensor.numel() for tensor in tensors):
        raise InputError("the inputs hold no example: give at least one")
    return tensors


def check_engines(
    quantized: QuantizedModel, integers: Sequence[Tensor], reference: Evaluation
) -> tuple[list[RuntimeCheck], list[Skipped]]:
    """Every int8 engine that this build of PyTorch has, against ``reference``; one without a kernel
    that the model needs is skipped."""
    checks, skipped = [], []
    for name in (name for name in ENGINES if name in torch.backends.quantized.supported_engines):
        try:
            outputs = run_module(quantized.int8(name), quantized, integers)
        except Exception as error:  # torch raises many types where an engine lacks a kernel
            skipped.append(Skipped(runtime=f"pytorch-{name}", reason=first_line(error)))
            continue
        checks.append(
            compare(f"pytorch-{name}", "int8 module", outputs, reference, output_steps(quantized))
        )
    return checks, skipped


@torch.no_grad()
def run_module(module: nn.Module, quantized: QuantizedModel, integers: Sequence[Tensor]) -> Outputs:
    """The outputs of a module of ``quantized`` for the integers of every input; several as in
    ``joined``."""
    reals = [spec.reals(tensor) for spec, tensor in zip(quantized.inputs, integers, strict=True)]
    size = min(batch_size(tensor.shape[1:]) for tensor in reals)
    batches = zip(*(tensor.split(size) for tensor in reals), strict=True)
    results = [
        joined([each for _, each in leaves(module(*batch)) if each is not None])
        for batch in batches
    ]
    return np.concatenate(results)


def output_steps(quantized: QuantizedModel) -> Steps:
    """The step of the output, None if it has none; of several, one for each column of
    ``joined``."""
    specs = quantized.graph.outputs
    if len(specs) == 1:
        return quantized.output_scale
    columns = []
    for spec in specs:
        count = math.prod(size or 1 for size in spec.shape[1:])
        columns.append(np.full(count, 1.0 if spec.quantizer is None else spec.quantizer.scale))
    return np.concatenate(columns)


def check_runtimes(
    path: Path,
    inputs: Sequence[NDArray[Any]],
    reference: Evaluation,
    output_scale: Steps,
    runtimes: Iterable[str] | None = None,
    predictions: dict[str, Any] | None = None,
) -> tuple[list[RuntimeCheck], list[Skipped]]:
    """Compare each runtime (default: all that take such files) with ``reference`` over ``inputs``,
    each [N, ...].

    ``output_scale`` is the step of the output (of several, of every column). A runtime with an
    ``image_limit`` runs the first images only; one that is not installed or does not take the file
    is returned as skipped, with its reason. ``predictions`` gets what each predicts, by
    "runtime/file".
    """
    checks, skipped = [], []
    for name in runtimes if runtimes is not None else runtimes_for(path):
        found = check_runtime(name, path, inputs, reference, output_scale)
        if isinstance(found, Skipped):
            skipped.append(found)
            continue
        checks.append(found.check)
        if predictions is not None and found.outputs.shape[1:] == reference.logits.shape[1:]:
            predictions[f"{name}/{path.name}"] = reference.kept(found.outputs)
    return checks, skipped


@dataclass(frozen=True)
class Checked:
    """What a runtime gave, and how that compares."""

    check: RuntimeCheck
    outputs: Outputs


def check_runtime(
    name: str,
    path: Path,
    inputs: Sequence[NDArray[Any]],
    reference: Evaluation,
    output_scale: Steps,
) -> Checked | Skipped:
    """Runtime ``name`` over as many examples as it takes against ``reference``, or why it gives
    nothing. One that takes another form of ``path`` gets that if it can be made."""
    kind = RUNTIMES.get(name)
    if (reason := kind.missing()) is not None:
        return Skipped(runtime=name, reason=reason)
    if kind.suffix != path.suffix:
        return _check_made(kind.suffix, name, path, inputs, reference, output_scale)
    examples = [array[: kind.image_limit] for array in inputs]
    try:
        with refusing(name, path):
            runtime = kind(path)
            outputs = run_in_batches(runtime, *examples)
    except InputError as error:
        return Skipped(runtime=name, file=path.name, reason=str(error))
    check = compare(name, path.name, outputs, reference, output_scale)
    if unexplained(check):
        check = replace(check, known=_explanation(runtime, path, examples, outputs))
    return Checked(check, outputs)


def _check_made(suffix: str, name: str, path: Path, *given: Any) -> Checked | Skipped:
    """``check_runtime`` of the form with ``suffix`` that is made of ``path`` here."""
    make = MAKERS.get((path.suffix, suffix))
    if make is None:
        return Skipped(runtime=name, file=path.name, reason=f"it takes {suffix} files")
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = check_runtime(name, make(path, Path(folder)).path, *given)
        except InputError as error:
            return Skipped(runtime=name, file=path.name, reason=str(error))
    if isinstance(found, Skipped):
        return replace(found, file=path.name)
    return replace(found, check=replace(found.check, file=path.name))


def _explanation(
    runtime: Runtime, path: Path, inputs: Sequence[NDArray[Any]], outputs: Outputs
) -> str | None:
    """What ``runtime`` changes in the file, if that gives exactly its ``outputs`` for ``inputs``;
    None if nobody knows."""
    try:
        with refusing(str(path), path), tempfile.TemporaryDirectory() as folder:
            rewriting = runtime.rewriting()
            if rewriting is None:
                return None
            changed = Path(folder) / path.name
            onnx.save(rewriting.model, str(changed))
            expected = run_in_batches(RUNTIMES.get(REFERENCE)(changed), *inputs)
    except InputError:
        return None
    return rewriting.reason if np.array_equal(outputs, expected) else None


def run_in_batches(runtime: Runtime, *inputs: NDArray[Any]) -> Outputs:
    """The output [N, ...] for one array [N, ...] per input."""
    size = min(batch_size(array.shape[1:]) for array in inputs)
    starts = range(0, len(inputs[0]), size)
    return np.concatenate(
        [runtime.run(*(array[start : start + size] for array in inputs)) for start in starts]
    )
