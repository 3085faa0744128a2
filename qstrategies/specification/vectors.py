"""Golden vectors: inputs that anybody can make, and what every tensor of a file is for them.

The JSON asks for no library of ours: SHA-256 of bytes, and inputs from a generator of one line.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from qstrategies.arguments import public
from qstrategies.errors import InputError
from qstrategies.files import read_bytes, sha256
from qstrategies.onnx_file import load_checked
from qstrategies.runtimes.onnx_runtime import plain_session
from qstrategies.specification.ends import End, Integer, ends_of, unread_of
from qstrategies.typed_json import Count, Range, Sha256, build, load

SCHEMA: Final = "qstrategies-golden-vectors"
VERSION: Final = 1
SUFFIX = ".vectors.json"
GENERATOR = (
    "for each element in order, x = (1664525 * x + 1013904223) mod 2^32, starting from the seed; "
    "element = low + (floor(x / 2^24) * (high - low + 1)) div 256"
)
"""The linear congruential generator of Numerical Recipes (Press et al., 3rd ed., section 7.1),
whose upper bits are used."""
RANGES = ((0, 255), (0, 255), (0, 31), (224, 255))
"""Of the elements of each vector: two of noise, a dark one, a bright one."""
IN_FULL = 4096
"""An output of at most so many elements is in the file itself, not only its hash."""

Byte = Annotated[int, Range(0, 255)]


@dataclass(frozen=True)
class Generated:
    """One input: the seed and the range of its generator, and the SHA-256 of its bytes."""

    seed: Annotated[int, Range(0, 2**32 - 1)]
    low: Byte
    high: Byte
    sha256: Sha256 = ""

    def integers(self, shape: Sequence[int]) -> NDArray[np.uint8]:
        """The elements, uint8 of ``shape``: see ``GENERATOR``.

        Element n is made of ``a^n seed + c (a^(n-1) + ... + a + 1)``, modulo 2^32 as uint32 is.
        """
        count = int(np.prod(shape))
        powers = np.cumprod(np.full(count, 1664525, np.uint32), dtype=np.uint32)
        sums = np.cumsum(np.append(np.uint32(1), powers[:-1]), dtype=np.uint32)
        x = powers * np.uint32(self.seed) + sums * np.uint32(1013904223)
        elements = self.low + ((x >> 24).astype(np.int64) * (self.high - self.low + 1) >> 8)
        return elements.astype(np.uint8).reshape(shape)


@dataclass(frozen=True)
class Quantized:
    """A tensor of 8-bit integers: real value = (integer - zero_point) * scale."""

    name: str
    shape: tuple[Count, ...]
    dtype: Literal["uint8", "int8"]


@dataclass(frozen=True)
class Vector:
    """``tensors``: SHA-256 of the bytes of every tensor of integers, in the order of
    ``Vectors.tensors``, elements in the file's order (the last dimension runs fastest).
    ``outputs``: the integers of every output; None for one of more than ``IN_FULL`` elements.
    """

    inputs: tuple[Generated, ...]
    tensors: tuple[Sha256, ...]
    outputs: tuple[tuple[Integer, ...] | None, ...]


@dataclass(frozen=True)
class Vectors:
    """All vectors of one file; ``file_sha256`` of its bytes."""

    schema: Literal["qstrategies-golden-vectors"]
    version: Literal[1]
    file_sha256: Sha256
    generator: str
    inputs: tuple[End, ...]
    tensors: tuple[Quantized, ...]
    outputs: tuple[End, ...]
    vectors: tuple[Vector, ...]

    @property
    def json(self) -> str:
        """One entry per line, and one vector."""
        content = {name: _json(value) for name, value in vars(self).items() if name != "vectors"}
        vectors = ",\n".join(map(_json, self.vectors))
        entries = [f"{_json(name)}: {value}" for name, value in content.items()]
        return "{\n" + ",\n".join([*entries, f'"vectors": [\n{vectors}\n]']) + "\n}\n"


def _json(value: object) -> str:
    return json.dumps(value, default=vars)  # of a dataclass, its fields


def vectors_path(path: Path) -> Path:
    """Where the golden vectors of the file ``path`` lie: beside it."""
    return path.with_suffix(SUFFIX)


@public
def golden_vectors(path: Path | str) -> Vectors:
    """The golden vectors of the ONNX file ``path``; whatever varies with the batch has size 1.

    Raises:
        InputError: a broken file, an input that is not quantized, or an output that is no tensor
            of 8-bit integers.
    """
    load_checked(Path(path))
    return vectors_of(read_bytes(Path(path)))


def vectors_of(data: bytes) -> Vectors:
    """The golden vectors of an ONNX file, given as its bytes; raises as ``golden_vectors``."""
    model = onnx.load_from_string(data)
    inputs, _ = ends_of(model)
    plans = [
        tuple(
            Generated(len(inputs) * number + place + 1, low, high) for place in range(len(inputs))
        )
        for number, (low, high) in enumerate(RANGES)
    ]
    return _computed(data, model, plans)


def stored_vectors(path: Path) -> Vectors | None:
    """The vectors that lie beside ``path``; None if there are none. Raises ``InputError`` for a
    damaged file."""
    beside = vectors_path(path)
    if not beside.exists():
        return None
    try:
        found: Vectors = build(Vectors, load(read_bytes(beside)))
    except InputError as error:
        raise InputError(
            f"{str(beside)!r} holds no golden vectors: {error}; write them again"
        ) from None
    return found


def first_difference(path: Path, stored: Vectors) -> str | None:
    """Where the file ``path`` does not give what the ``stored`` vectors say; None if it does."""
    data = read_bytes(path)
    if sha256(data) != stored.file_sha256:
        return "they are those of another file"
    plans = [vector.inputs for vector in stored.vectors]
    if not plans or any(len(plan) != len(stored.inputs) for plan in plans):
        return "they have no inputs, or not one for each of the file"
    found = _computed(data, onnx.load_from_string(data), plans)
    for number, (ours, theirs) in enumerate(zip(found.vectors, stored.vectors, strict=True), 1):
        if ours != theirs:
            return f"vector {number}: {_named_difference(found, ours, theirs)}"
    return None if found == stored else "they describe other tensors"


def _named_difference(vectors: Vectors, found: Vector, stored: Vector) -> str:
    names = [tensor.name for tensor in vectors.tensors]
    for name, ours, theirs in zip(names, found.tensors, stored.tensors, strict=False):
        if ours != theirs:
            return f"tensor {name!r} differs"
    return "an input or output differs"


def _computed(data: bytes, model: onnx.ModelProto, plans: Sequence[Sequence[Generated]]) -> Vectors:
    inputs, outputs = ends_of(model)
    names = _integer_tensors(model)
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, kind, None) for name, kind in names.items()
    )
    session = plain_session(watched.SerializeToString())
    unread = unread_of(model)
    runs = []
    for plan in plans:
        arrays = [each.integers(end.shape) for each, end in zip(plan, inputs, strict=True)]
        feeds = {end.name: _fed(end, array) for end, array in zip(inputs, arrays, strict=True)}
        results = dict(zip(names, session.run(list(names), unread | feeds), strict=True))
        runs.append((plan, arrays, results))
    shapes = {end.tensor: end.shape for end in inputs}
    shapes |= {name: array.shape for name, array in runs[0][2].items()}
    return Vectors(
        schema=SCHEMA,
        version=VERSION,
        file_sha256=sha256(data),
        generator=GENERATOR,
        inputs=inputs,
        tensors=tuple(_described(name, array) for name, array in runs[0][2].items()),
        outputs=tuple(dataclasses.replace(end, shape=shapes[end.tensor]) for end in outputs),
        vectors=tuple(_vector(*run, inputs, outputs) for run in runs),
    )


def _vector(
    plan: Sequence[Generated],
    arrays: Sequence[NDArray[np.uint8]],
    results: Mapping[str, NDArray[Any]],
    inputs: Sequence[End],
    outputs: Sequence[End],
) -> Vector:
    hashed = [
        dataclasses.replace(each, sha256=sha256(array.tobytes()))
        for each, array in zip(plan, arrays, strict=True)
    ]
    made = {end.tensor: array for end, array in zip(inputs, arrays, strict=True)} | dict(results)
    in_full = []
    for end in outputs:
        array = made[end.tensor]
        in_full.append(tuple(array.reshape(-1).tolist()) if array.size <= IN_FULL else None)
    hashes = tuple(sha256(array.tobytes()) for array in results.values())
    return Vector(tuple(hashed), hashes, tuple(in_full))


def _described(name: str, array: NDArray[Any]) -> Quantized:
    dtype: Any = str(array.dtype)
    return Quantized(name, array.shape, dtype)


def _fed(end: End, integers: NDArray[np.uint8]) -> NDArray[Any]:
    """What the file takes for ``integers``."""
    if end.dtype == "uint8":
        return integers
    return (integers.astype(np.float32) - np.float32(end.zero_point)) * np.float32(end.scale)


def _integer_tensors(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every tensor of 8-bit integers that a node makes, by name and in
    order."""
    kinds = {each.name: each.type.tensor_type.elem_type for each in model.graph.value_info}
    made = [name for node in model.graph.node for name in node.output]
    bytes_ = (TensorProto.UINT8, TensorProto.INT8)
    return {name: kinds[name] for name in made if kinds.get(name) in bytes_}
