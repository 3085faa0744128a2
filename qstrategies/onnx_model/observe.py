"""A file in ONNX Runtime: every value in it, and those that follow from the sizes of its inputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from qstrategies.errors import InputError, first_line

BATCHES = (2, 3)


def watched(
    model: onnx.ModelProto, inputs: Mapping[str, Tensor], names: Sequence[str]
) -> dict[str, NDArray]:
    """The values ``names`` of ``model`` for ``inputs``, computed by ONNX Runtime.

    Raises ``InputError`` if it does not run the file on them.
    """
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    del copied.graph.output[:]
    copied.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            copied.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        given = {name: tensor.numpy() for name, tensor in inputs.items()}
        found = dict(zip(names, session.run(None, given), strict=True))
    except Exception as error:  # its exceptions share no base class of their own
        sizes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in inputs.items())
        raise InputError(f"ONNX Runtime does not run it on {sizes}: {first_line(error)}") from None
    for name, value in found.items():
        if not isinstance(value, np.ndarray):
            raise InputError(f"{name!r} is no tensor: only these are read")
    return found


def random_inputs(
    entries: Sequence[onnx.ValueInfoProto], shape: Sequence[int] | None, batch: int
) -> dict[str, Tensor]:
    """One input of ``batch`` examples for each of ``entries``, of ``shape`` where sizes are left
    open, else 64.

    Raises ``InputError`` for an input that is not float32.
    """
    return {entry.name: _random(entry, shape, batch) for entry in entries}


def _random(entry: onnx.ValueInfoProto, shape: Sequence[int] | None, batch: int) -> Tensor:
    kind = entry.type.tensor_type
    if kind.elem_type != onnx.TensorProto.FLOAT or not kind.shape.dim:
        raise InputError(
            f"the input {entry.name!r} is no batch of float32: only these are read, give the file "
            "of a float model"
        )
    sizes = [each.dim_value for each in kind.shape.dim]
    inner = list(shape) if shape is not None else [size if size > 0 else 64 for size in sizes[1:]]
    count = sizes[0] if sizes[0] > 0 else batch
    return torch.rand(count, *inner, generator=torch.Generator().manual_seed(0))


def sizes_observed(
    model: onnx.ModelProto, values: Sequence[Mapping[str, NDArray]], constants: Collection[str]
) -> dict[str, Tensor]:
    """What follows from the sizes of the inputs alone, by name: -1 where it is the batch, left out
    where it depends on the batch in another way.

    Args:
        values: all of ``model``, for each of ``BATCHES``.
    """
    found = {}
    for name in _from_sizes(model, constants):
        two, three = (run[name] for run in values)
        if two.shape != three.shape or two.dtype.kind != "i":
            continue
        differs = two != three
        as_batch = (two == BATCHES[0]) & (three == BATCHES[1])
        if as_batch[differs].all() and differs.sum() < 2:
            found[name] = torch.from_numpy(np.where(differs, -1, two))
    return found


def _from_sizes(model: onnx.ModelProto, constants: Collection[str]) -> list[str]:
    """The names of what ``Shape`` gives and of what is computed of that and ``constants``."""
    found: dict[str, None] = {}
    fixed = set(constants)
    for node in model.graph.node:
        inputs = [name for name in node.input if name]
        if (inputs and all(name in fixed for name in inputs)) or node.op_type == "Constant":
            fixed.update(node.output)
        elif node.op_type == "Shape" or all(name in fixed or name in found for name in inputs):
            found |= dict.fromkeys(node.output)
    return list(found)
