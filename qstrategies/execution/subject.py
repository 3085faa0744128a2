"""A file to be verified, of whatever form: what it takes, what is noted in it, and which runtime
computes it as it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import Tensor

from qstrategies.errors import InputError, check_choice
from qstrategies.execution.crosscheck import REFERENCE
from qstrategies.onnx_file import checked_metadata, load_checked, metadata_of, unchanged
from qstrategies.operators.base import Quantizer
from qstrategies.runtimes.base import input_dtypes
from qstrategies.tflite_file import TfliteModel, load_tflite

REFERENCES = {".onnx": REFERENCE, ".tflite": "litert-xnnpack"}
"""The runtime whose bits the others are held against: float32 products, halves to even."""
RANDOM_IMAGES = 64


@dataclass(frozen=True)
class Subject:
    """The file ``path``.

    Attributes:
        metadata: what this package noted in it; empty for a file of another tool.
        unchanged: whether it is what was exported; None if it does not say.
        shapes: of its inputs, channels first, 0 for what varies.
        takes_integers: whether its inputs are the integers of quantizers.
    """

    path: Path
    metadata: dict[str, Any]
    unchanged: bool | None
    shapes: Sequence[Sequence[int]]
    takes_integers: bool

    @classmethod
    def of(cls, path: Path) -> Subject:
        """Read ``path``. Raises ``InputError`` for a broken file, or one of another kind."""
        check_choice("suffix", path.suffix, REFERENCES)
        found = _of_onnx(path) if path.suffix == ".onnx" else _of_tflite(path)
        if found.metadata.get("form") == "float":
            raise InputError(f"{str(path)!r} is a float file: only int8 exports can be verified")
        return found

    @property
    def reference(self) -> str:
        """The name of the runtime that is trusted."""
        return REFERENCES[self.path.suffix]

    def takes(self, images: Tensor) -> NDArray[Any]:
        """``images`` as a split keeps them, as the file takes them."""
        return for_file(images, self.metadata, takes_integers=self.takes_integers)

    def random_pixels(self) -> list[NDArray[np.uint8]]:
        """Pixels 0...255 of the shapes that it takes, one array per input, from a fixed seed.

        Raises:
            InputError: an input that is no batch of a known shape.
        """
        random = np.random.default_rng(0)
        if not self.shapes or any(len(each) < 2 or min(each[1:]) < 1 for each in self.shapes):
            raise InputError(
                f"{str(self.path)!r} has no known test data, and no inputs [N, ...] of known "
                "shapes to make some for"
            )
        batch = max(shape[0] for shape in self.shapes) or RANDOM_IMAGES
        return [random.integers(0, 256, (batch, *shape[1:]), np.uint8) for shape in self.shapes]


def for_file(images: Tensor, metadata: Mapping[str, Any], *, takes_integers: bool) -> NDArray[Any]:
    """``images`` as a split keeps them, as a file takes them: real values as the integers of its
    quantizer, if that is what it takes."""
    if not images.is_floating_point() or not takes_integers:
        return images.numpy()
    if "input_scale" not in metadata:
        raise InputError("the file does not say how it quantizes real values: export it again")
    quantizer = Quantizer(metadata["input_scale"], metadata["input_zero_point"])
    return quantizer.quantize(images).numpy()


def takes_integers(model: onnx.ModelProto) -> bool:
    """Whether all inputs of ``model`` are integers of quantizers."""
    return set(input_dtypes(model).values()) == {np.dtype(np.uint8)}


def _of_onnx(path: Path) -> Subject:
    model = load_checked(path)
    constants = {tensor.name for tensor in model.graph.initializer}
    entries = [entry for entry in model.graph.input if entry.name not in constants]
    shapes = [[dim.dim_value for dim in entry.type.tensor_type.shape.dim] for entry in entries]
    metadata = metadata_of(model, path)
    return Subject(path, metadata, unchanged(model), shapes, takes_integers(model))


def _of_tflite(path: Path) -> Subject:
    file = load_tflite(path)
    metadata = checked_metadata(dict(file.metadata), path)
    shapes = [_channels_first(file, place) for place in range(file.graph.InputsLength())]
    return Subject(path, metadata, file.unchanged, shapes, takes_integers=True)


def _channels_first(file: TfliteModel, place: int) -> list[int]:
    """The shape of an input without its one example, as many as there may be."""
    _, *shape = file.graph.Tensors(file.graph.Inputs(place)).ShapeAsNumpy().tolist()
    layouts = file.metadata.get("layouts", {}).get("inputs", [])
    last = layouts[place : place + 1] == ["image"]
    return [0, shape[-1], *shape[:-1]] if last else [0, *shape]
