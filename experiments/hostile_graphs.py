"""Whole files: inputs, a few blocks of operators between quantizers, outputs, and what the file
claims about its tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from hostile_draft import IR_VERSION, Array, Draft, ImpossibleError, Quantizer, Tensor
from hostile_operators import COMMON, INTEGER, KEEPING, MOVING, RARE, WEIGHTED
from hypothesis import strategies as st
from onnx import TensorProto, helper

SHAPES = ((2, 4, 4), (1, 3, 5), (4, 2, 2), (3, 4), (6,), (2, 6, 3))
MOST_BLOCKS = 4


@dataclass(frozen=True)
class Drawn:
    """A model with values for its inputs, by name; ``oddities``: how many odd choices are in it."""

    model: onnx.ModelProto
    inputs: dict[str, Array]
    oddities: int

    def __repr__(self) -> str:
        return onnx.printer.to_text(self.model)


@st.composite
def files(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Drawn:
    """A QDQ model of one to four blocks; nearly always one that the standard allows."""
    draft = Draft(draw)
    real = entry(draft)
    for _ in range(draw(st.integers(1, MOST_BLOCKS))):
        start = len(draft.nodes)
        try:
            real = block(draft, real)
        except ImpossibleError:
            real = _undone(draft, start, real)
    return Drawn(finished(draft, real), examples(draft), draft.oddities)


def examples(draft: Draft) -> dict[str, Array]:
    """Values for every input by name; those that are constants by default stay so."""
    rng, extreme = np.random.default_rng(0), draft.one_of((False, False, True))
    found = {}
    for name in (value.name for value in draft.inputs if value.name not in draft.known):
        tensor = draft.tensors[name]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.dtype)
        found[name] = _values(rng, dtype, tensor.shape, extreme)
    return found


def entry(draft: Draft) -> Tensor:
    """A real tensor: pixels that are dequantized, or a real input that is quantized first."""
    shape = draft.one_of(SHAPES)
    kind = draft.one_of(("pixels", "pixels", "real"), ("raw pixels", "cast pixels", "unquantized"))
    if kind == "cast pixels":
        pixels = draft.add_input(TensorProto.UINT8, shape)
        return draft.node("Cast", [pixels.name], 255.0, to=TensorProto.FLOAT)
    if kind == "unquantized":
        return draft.add_input(TensorProto.FLOAT, shape)
    quantizer = draft.quantizer(draft.one_of((1.0, 2.0**-7, 2.0**-4)))
    if kind == "real":
        return draft.dequantize(
            draft.quantize(draft.add_input(TensorProto.FLOAT, shape), quantizer), quantizer
        )
    return draft.dequantize(
        draft.add_input(helper.np_dtype_to_tensor_dtype(quantizer.dtype), shape), quantizer
    )


def block(draft: Draft, real: Tensor) -> Tensor:
    """One or more operators, then a quantizer."""
    names = [_operator_name(draft)]
    while draft.one_of((False, False, True), (True,)):
        names.append(_operator_name(draft))
    before = real.quantizer
    for name in names:
        real = operator(draft, name, real)
    if real.dtype != TensorProto.FLOAT:
        raise ImpossibleError("not float")
    if draft.odd():
        return real
    keeps = before is not None and set(names) <= KEEPING and not draft.odd()
    quantizer = before if before is not None and keeps else _fitting(draft, real)
    integers = draft.quantize(real, quantizer)
    if draft.one_of((False, False, False, True)):
        integers = operator(draft, draft.one_of(MOVING, INTEGER), integers)
    return draft.dequantize(integers, quantizer)


def _operator_name(draft: Draft) -> str:
    return draft.one_of((*COMMON, *WEIGHTED, *WEIGHTED), tuple(RARE))


def operator(draft: Draft, name: str, x: Tensor) -> Tensor:
    """One operator with what belongs to it."""
    if len(x.shape) < 2:
        raise ImpossibleError("a vector")
    return {**COMMON, **RARE}[name](draft, x)


def _fitting(draft: Draft, real: Tensor) -> Quantizer:
    """A quantizer for ``real``, often so narrow that it saturates."""
    return draft.quantizer(real.top * draft.one_of((2.0**-8, 2.0**-10, 2.0**-12, 2.0**-7)))


def _undone(draft: Draft, start: int, real: Tensor) -> Tensor:
    """Take back the nodes from ``start`` on, which an impossible one left without an end."""
    for node in draft.nodes[start:]:
        for name in node.output:
            draft.tensors.pop(name)
            draft.known.pop(name, None)
    del draft.nodes[start:]
    return real


def finished(draft: Draft, real: Tensor) -> onnx.ModelProto:
    """The model whose outputs are ``real`` and perhaps others, with what it claims about their
    shapes."""
    outputs = [real]
    if draft.odd():
        produced = [name for node in draft.nodes for name in node.output if name not in draft.known]
        second = draft.one_of(produced or [real.name])
        outputs += [draft.tensors[second]] if second != real.name else []
    shapes = draft.one_of(("full", "batch", "symbolic"))
    entries = [_claim(tensor, tensor.dtype, shapes) for tensor in outputs]
    graph = helper.make_graph(
        draft.nodes, "hostile", draft.inputs, entries, draft.initializers, value_info=claims(draft)
    )
    return helper.make_model(graph, opset_imports=draft.opsets, ir_version=IR_VERSION)


def claims(draft: Draft) -> list[onnx.ValueInfoProto]:
    """value_info: usually none or all of it, rarely a false one."""
    inner = [draft.tensors[name] for node in draft.nodes[:-1] for name in node.output]
    form = draft.one_of(("none", "all"), ("wrong size", "wrong rank", "wrong type"))
    if form == "none" or not inner:
        return []
    if form == "all":
        return [_claim(tensor, tensor.dtype, "full") for tensor in inner]
    victim = draft.one_of(inner)
    if form == "wrong type":
        return [
            _claim(
                victim,
                TensorProto.FLOAT16 if victim.dtype == TensorProto.FLOAT else TensorProto.FLOAT,
                "full",
            )
        ]
    shape = [
        *victim.shape[:-1],
        *((victim.shape[-1] * 2,) if form == "wrong size" and victim.shape else ()),
    ]
    return [helper.make_tensor_value_info(victim.name, victim.dtype, shape)]


def _claim(tensor: Tensor, dtype: int, shapes: str) -> onnx.ValueInfoProto:
    dims: list[Any] = list(tensor.shape)
    if dims and shapes == "batch":
        dims[0] = "n"
    if shapes == "symbolic":
        dims = [f"{tensor.name}_{axis}" for axis in range(len(dims))]
    return helper.make_tensor_value_info(tensor.name, dtype, dims)


def _values(
    rng: np.random.Generator, dtype: np.dtype[Any], shape: tuple[int, ...], extreme: bool
) -> Array:
    """Examples: random ones and the extremes; for real inputs also ties and magnitudes beyond any
    calibration.

    The ``extreme`` ones are beyond the reference evaluator and the interpreter, too.
    """
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        values = rng.integers(limits.min, limits.max + 1, shape)
        values[0], values[1] = limits.min, limits.max
        return values.astype(dtype)
    halves = rng.integers(-600, 601, shape) / 2
    ends = (1e36, 1e-41) if extreme else (2.0**12, 2.0**-20)
    sizes = np.array([1, 2.0**-8, 2.0**-5, *ends, 0.01])
    values = halves * sizes[: shape[0]].reshape(-1, *[1] * (len(shape) - 1))
    values[-1] = rng.normal(size=shape[1:])
    return values.astype(dtype)
