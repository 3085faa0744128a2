"""``qstrategies predict``: pictures and arrays through an exported file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qstrategies.datasets import DATASETS
from qstrategies.datasets.folders import picture
from qstrategies.errors import InputError
from qstrategies.execution.subject import for_file, takes_integers
from qstrategies.files import check_file
from qstrategies.onnx_file import load_checked, metadata_of
from qstrategies.runtimes.onnx_runtime import OnnxRuntime

ARRAYS = (".npy", ".npz")
CHANNELS = (1, 3)


def predict(path: Path, examples: Sequence[Path]) -> list[dict[str, Any]]:
    """One entry per example: label, its logit, the runner-up and its distance; a file without
    labels gives numbers. What does not choose between classes gives its ``outputs``.

    Args:
        examples: pictures, cut to the shape that the file takes around their centre, and resized;
            .npy files of one example [...] or of several [N, ...]; .npz files of these for a file
            of several inputs, by name.

    Raises:
        InputError: a broken ONNX file, an example that it does not take.
    """
    takes = _Takes.of(path)
    results = []
    for example in examples:
        outputs = takes.runtime.run(*takes.read(example))
        several = len(outputs) > 1
        for number, output in enumerate(outputs):
            name = f"{example}[{number}]" if several else str(example)
            results.append({"image": name, **_told(output, takes.metadata)})
    return results


def _told(output: NDArray[np.float32], metadata: Mapping[str, Any]) -> dict[str, Any]:
    if output.ndim != 1 or len(output) < 2 or "metric" in metadata:  # of another task
        return {"outputs": output.tolist()}
    labels = metadata.get("labels")
    best, second = (int(index) for index in np.argsort(-output, kind="stable")[:2])
    names = labels or [str(index) for index in range(len(output))]
    return {
        "label": names[best],
        "logit": float(output[best]),
        "runner_up": names[second],
        "margin": float(output[best] - output[second]),
    }


@dataclass(frozen=True)
class _Takes:
    """A file that is loaded, and the shapes of its inputs, by name."""

    path: Path
    runtime: OnnxRuntime
    metadata: dict[str, Any]
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, path: Path) -> _Takes:
        metadata, runtime = metadata_of(load_checked(path), path), OnnxRuntime(path)
        shapes = {each.name: tuple(each.shape[1:]) for each in runtime.session.get_inputs()}
        for name, shape in shapes.items():
            if not all(isinstance(size, int) for size in shape):
                raise InputError(f"{str(path)!r} does not say the shape of its input {name!r}")
        return cls(path, runtime, metadata, shapes)

    def read(self, example: Path) -> list[NDArray[Any]]:
        """One array [n, ...] for each input."""
        if len(self.shapes) > 1:
            return self._several(example)
        ((name, shape),) = self.shapes.items()
        if example.suffix in ARRAYS:
            return [self._fitted(_loaded(example), name, example)]
        if len(shape) != 3 or shape[0] not in CHANNELS or "input_scale" in self.metadata:
            raise InputError(
                f"{str(self.path)!r} takes no pictures but {list(shape)}: give .npy files"
            )
        pixels = picture(example, (shape[1], shape[2]), grey=shape[0] == 1)
        return [(_light_on_dark(pixels) if self._on_dark else pixels)[None]]

    @property
    def _on_dark(self) -> bool:
        """Whether the training data is light on dark."""
        name = self.metadata.get("dataset")
        return name in DATASETS.names() and getattr(DATASETS.get(name), "light_on_dark", False)

    def _several(self, example: Path) -> list[NDArray[Any]]:
        arrays = _loaded(example) if example.suffix == ".npz" else {}
        if set(arrays) != set(self.shapes):
            wanted = " and ".join(f"{name} {list(shape)}" for name, shape in self.shapes.items())
            raise InputError(f"{str(example)!r}: expected a .npz file with {wanted}")
        return [self._fitted(arrays[name], name, example) for name in self.shapes]

    def _fitted(self, values: Any, name: str, example: Path) -> NDArray[Any]:
        """``values`` as the input ``name`` takes them."""
        shape, said = self.shapes[name], f"{str(example)!r}: "
        if not isinstance(values, np.ndarray):
            raise InputError(f"{said}expected one array, as a .npy file")
        if values.dtype.kind not in "buif":
            raise InputError(f"{said}it holds {values.dtype}: expected numbers")
        if values.shape == shape:
            values = values[None]
        if values.shape[1:] != shape:
            sizes = ", ".join(map(str, shape))
            raise InputError(
                f"{said}{list(values.shape)}: expected [{sizes}] or [N, {sizes}] of {name!r}"
            )
        if not len(values):
            raise InputError(f"{said}it is empty: give at least one example")
        if self.runtime.dtypes[name] != np.uint8:
            return values
        if "input_scale" in self.metadata:
            reals = torch.from_numpy(values.astype(np.float32))
            integers = takes_integers(load_checked(self.path))
            return for_file(reals, self.metadata, takes_integers=integers)
        found = values.dtype if values.dtype.kind == "f" else values.max()
        if values.dtype.kind == "f" or values.min() < 0 or found > 255:
            raise InputError(f"{said}{found}: expected pixels, whole numbers from 0 to 255")
        return values


def _loaded(path: Path) -> Any:
    """The array in a .npy file, or those in a .npz file by name."""
    check_file(path)
    try:
        found = np.load(path, allow_pickle=False)
        return found if isinstance(found, np.ndarray) else dict(found)
    except Exception as error:  # zipfile, zlib and NumPy raise many unrelated types
        raise InputError(f"{str(path)!r} is no array: {error}; write it with np.save") from None


def _light_on_dark(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``pixels`` [C, H, W], inverted if their border is bright."""
    border = np.concatenate(
        [pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], axis=1
    )
    return 255 - pixels if border.mean() > 127 else pixels
