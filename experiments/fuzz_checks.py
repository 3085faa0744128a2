"""What must hold of a random network: the user's function, and the same bits in every executor."""

from __future__ import annotations

import contextlib
import copy
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_networks import Case
from numpy.typing import NDArray
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))
import check_spec

import qstrategies as qs
from qstrategies.errors import InputError, SelfCheckError
from qstrategies.quantization.calibrate import calibrate
from qstrategies.quantization.integer_graph import real_output
from qstrategies.quantization.interface import InputSpec
from qstrategies.quantization.model import QuantizedModel
from qstrategies.quantization.noise_check import is_mostly_noise
from qstrategies.quantization.prepare import Prepared, prepare
from qstrategies.quantization.selfcheck import check_nodes, check_outputs
from qstrategies.quantization.structure import leaves
from qstrategies.records import ENGINES
from qstrategies.runtimes import RUNTIMES, runtimes_for
from qstrategies.runtimes.base import Runtime, joined, not_installed
from qstrategies.specification.vectors import vectors_path

CALIBRATION, TEST = 16, (7, 1)
REFUSALS = {
    "write that out of place": "another view of a tensor changed in place",
    "leave input_scale None": "pixels that are no image",
    "does not fit int32": "a bias far beyond its layer's products",
    "exact integers of": "more bits than the interpreter has",
    "not finite": "a range that is not finite",
    "for a maximum, and calibration shows": "a padding that is not below all values",
    "has no fixed-point form": "fixed-point kernels would round it apart",
}
IN_PLACE = "an item that is changed in place"
NO_TFLITE = ("has no TFLite form", "is not quantized", "TFLite wants fixed ones")
ONNX_RUNTIME = tuple(f"onnxruntime-{level}" for level in ("disabled", "basic", "extended", "all"))
Outputs = NDArray[Any]


class FaultError(Exception):
    """What must not be."""


def outcome(found: Case, folder: Path) -> str:
    """What becomes of a network, in a few words.

    Raises:
        FaultError: a refusal that nobody expects, another function than the float model's, or bits
            that differ where the certificate says that they do not.
    """
    calibration = found.inputs(CALIBRATION)
    if not all(torch.isfinite(each).all() for each in _float(found, calibration)):
        return "not finite"
    try:
        prepared, quantized = _quantized(found, calibration)
    except InputError as error:
        return _expected(error)
    in_place = any(IN_PLACE in each.reason for each in quantized.islands)
    if found.exact and quantized.islands and not in_place:
        raise FaultError(
            f"left in float: {[(each.name, each.reason) for each in quantized.islands]}"
        )
    for count in TEST:
        _check_function(found, prepared, quantized, found.inputs(count, found.beyond))
    try:
        bits = _bits(found, quantized, folder)
    except InputError as error:
        return _expected(error)
    far = found.usual and found.config.weight_bits >= 7 and _far(found, quantized, calibration)
    return f"{bits}, far from the float model" if far else bits


def _expected(error: InputError) -> str:
    """What a refusal means; raises ``FaultError`` for one that nobody expects."""
    for word, meaning in REFUSALS.items():
        if word in str(error):
            return f"refused: {meaning}"
    raise FaultError(f"refused: {error}") from None


def _bits(found: Case, quantized: QuantizedModel, folder: Path) -> str:
    files = [] if quantized.islands else qs.export_onnx(quantized, folder / "model.onnx")
    proven = {"": all(map(_certified, files)), **{file.form: _certified(file) for file in files}}
    if found.config.fixed_point and files:
        assert files[0].certificate is not None
        proven["tflite"] = files[0].certificate["fixed_point"]
        files += _tflite(quantized, folder)
    if files and proven["portable"]:
        _check_specification(files[0].path)
    unequal = _unequal(found, quantized, files)
    wrong = [str(each) for each in unequal if proven[each.file]]
    if wrong:
        raise FaultError(f"not the bits of the specification: {sorted(wrong)}")
    if not files:
        return "the same bits, partly in float"
    bits = "other bits" if unequal else "the same bits"
    bits += ", on fixed-point kernels too" if files[-1].form == "tflite" else ""
    return bits if proven[""] else f"not certified, {bits}"


def _check_specification(path: Path) -> None:
    """The independent checker computes the golden vectors of the file from its specification."""
    specification = json.loads(qs.specify(path).json)
    try:
        check_spec.check(specification, json.loads(vectors_path(path).read_text()))
    except check_spec.WrongError as error:
        raise FaultError(f"not as specified: {error}") from None


def _tflite(quantized: QuantizedModel, folder: Path) -> list[qs.ExportedModel]:
    """The TFLite file, if there are operators for all of the model and its schema is installed."""
    if not_installed("tflite", "tflite"):
        return []
    try:
        return [qs.export_tflite(quantized, folder / "model.tflite")]
    except InputError as error:
        if any(word in str(error) for word in NO_TFLITE):
            return []
        raise FaultError(f"no TFLite file: {error}") from None


def _certified(file: qs.ExportedModel) -> bool:
    assert file.certificate is not None
    return bool(file.certificate["float_executors"] and file.certificate["integer_kernels"])


def _quantized(found: Case, calibration: tuple[Tensor, ...]) -> tuple[Prepared, QuantizedModel]:
    """As ``qs.quantize`` does it, with the graph that it comes from."""
    network, example = copy.deepcopy(found.network), found.inputs(found.batch)
    prepared = prepare(network, found.config, example, input_scale=found.input_scale)
    calibrate(prepared, [calibration])
    quantized = QuantizedModel.of(prepared)
    check_nodes(prepared, quantized.graph, calibration)
    return prepared, quantized


@torch.no_grad()
def _float(found: Case, inputs: Sequence[Tensor]) -> list[Tensor]:
    network = copy.deepcopy(found.network)
    return [each for _, each in leaves(network(*(each.clone() for each in inputs)))]


@torch.no_grad()
def _check_function(
    found: Case, prepared: Prepared, quantized: QuantizedModel, inputs: Sequence[Tensor]
) -> None:
    """The forms give what the user's model gives, and every node what its form gives, rounded."""
    expected = _float(found, inputs)
    if all(torch.isfinite(each).all() for each in expected):  # beyond the calibration's range
        try:
            check_outputs(prepared.graph, inputs, expected, "the exact forms compute it")
        except SelfCheckError as error:
            raise FaultError(str(error)) from None
    check_nodes(prepared, quantized.graph, inputs)


@torch.no_grad()
def _far(found: Case, quantized: QuantizedModel, inputs: Sequence[Tensor]) -> bool:
    """Whether an output is mostly noise: one that is small beside what it shares a quantizer with,
    or behind a function that magnifies roundings. Rare, unless nodes read the wrong tensors."""
    pairs = zip(quantized.inputs, inputs, strict=True)
    results = quantized.reference()(*(spec.integers(each) for spec, each in pairs))
    ours = [each for _, each in leaves(results)]
    for spec, found_, expected in zip(
        quantized.graph.outputs, ours, _float(found, inputs), strict=True
    ):
        if is_mostly_noise(spec, found_, expected):
            return True
    return False


@dataclass(frozen=True)
class Executor:
    """Whatever computes the integer graph; ``file`` is the form of the file that it runs, or ""."""

    name: str
    run: Callable[[Sequence[Tensor]], Outputs]
    file: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.file})" if self.file else self.name


def _unequal(
    found: Case, quantized: QuantizedModel, files: Sequence[qs.ExportedModel]
) -> list[Executor]:
    """Those that give other bits than the specification, for what inference may see and for any
    integers."""
    executors = list(_executors(quantized, files))
    unequal = {}
    for count in TEST:
        pairs = zip(quantized.inputs, found.inputs(count, found.beyond), strict=True)
        entered = [_every_other_wild(spec, each) for spec, each in pairs]
        expected = _specified(quantized, entered)
        for each in executors:
            if not np.array_equal(each.run(entered), expected):
                unequal[str(each)] = each
    return list(unequal.values())


def _every_other_wild(spec: InputSpec, reals: Tensor) -> Tensor:
    integers = spec.integers(reals)
    integers[1::2] = torch.randint(0, 256, integers[1::2].shape, dtype=torch.uint8)
    return integers


def _specified(quantized: QuantizedModel, entered: Sequence[Tensor]) -> Outputs:
    values = quantized.graph.integers(*(each.numpy() for each in entered))
    return joined(
        [real_output(spec, values[spec.name]).numpy() for spec in quantized.graph.outputs]
    )


def _executors(quantized: QuantizedModel, files: Sequence[qs.ExportedModel]) -> Iterator[Executor]:
    yield Executor("the float reference", _of_module(quantized.reference()))
    for name in ENGINES:
        if name in torch.backends.quantized.supported_engines:
            yield Executor(name, _of_module(quantized.int8(name)))
    for file in files:
        if file.form == "tflite":
            yield from _fixed_point(file.path)
            continue
        for name in ONNX_RUNTIME:
            kind: Any = RUNTIMES.get(name)
            yield Executor(name, _of_runtime(kind(file.path, threads=1)), file.form)
        interpreter = RUNTIMES.get("numpy-integer")(file.path)
        yield Executor("the interpreter", _of_runtime(interpreter), file.form)


def _fixed_point(path: Path) -> Iterator[Executor]:
    for name in runtimes_for(path):
        kind = RUNTIMES.get(name)
        if kind.missing() is None:
            with contextlib.suppress(InputError):  # TFLite Micro has fewer dimensions
                yield Executor(name, _of_runtime(kind(path)), "tflite")


def _of_module(module: torch.nn.Module) -> Callable[[Sequence[Tensor]], Outputs]:
    return lambda inputs: joined([each.numpy() for _, each in leaves(module(*inputs))])


def _of_runtime(runtime: Runtime) -> Callable[[Sequence[Tensor]], Outputs]:
    return lambda inputs: runtime.run(*(each.numpy() for each in inputs))
