"""The small interface that every executor implements."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray

from qstrategies.errors import InputError


@dataclass(frozen=True)
class Rewriting:
    """The ``model`` whose bits an executor gives instead of those of the file that it loaded, and
    what it changed."""

    reason: str
    model: onnx.ModelProto


class Runtime(ABC):
    """One executor with one file loaded."""

    summary: ClassVar[str] = ""
    suffix: ClassVar[str] = ".onnx"
    """Of the files that it takes."""
    image_limit: ClassVar[int | None] = None
    """How many images a cross-check runs; None means the whole split. For executors too slow for
    all."""

    @classmethod
    def missing(cls) -> str | None:
        """Why this executor cannot be used here, or None if it can."""
        return None

    @abstractmethod
    def __init__(self, path: Path) -> None:
        """Load ``path``, a complete file of standard operators with the suffix that it takes;
        raises ``InputError`` if this executor does not run it."""

    @abstractmethod
    def run(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        """The file's output [N, ...] for one array [N, ...] per input of the file, in its order;
        several as in ``joined``.

        Arrays are cast to the dtype that the file takes: raw pixels 0...255 may come as uint8
        whatever that is. Raises ``InputError`` if this executor finds only now that it cannot run
        the file.
        """

    def rewriting(self) -> Rewriting | None:
        """What it computes instead of the loaded file, if it is known to change its arithmetic;
        None: what the file says."""
        return None


def not_installed(module: str, extra: str = "runtimes") -> str | None:
    """The reason of an executor whose Python ``module``, of ``extra``, is missing, else None."""
    return (
        None
        if importlib.util.find_spec(module)
        else f"not installed: pip install 'qstrategies[{extra}]'"
    )


def refused(executor: str, path: Path, error: Exception) -> InputError:
    """``error`` of an executor's own kind, raised by loading or running ``path``, in one line."""
    lines = [
        line for line in str(error).strip().splitlines() if not line.startswith("Exception from")
    ]  # where OpenVINO's source is
    return InputError(
        f"{executor} cannot load or run {str(path)!r}: "
        f"{lines[0] if lines else type(error).__name__}"
    )


@contextmanager
def refusing(executor: str, path: Path) -> Iterator[None]:
    """Whatever an executor raises while it loads or runs ``path``, as an ``InputError`` with the
    reason in one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise refused(executor, path, RuntimeError(f"{type(error).__name__}: {error}")) from error


def read_model(executor: str, path: Path) -> onnx.ModelProto:
    """The model in ``path``; raises ``InputError`` if it is broken."""
    try:
        return onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf raises many unrelated types for a broken file
        raise refused(executor, path, error) from None


def input_dtypes(model: onnx.ModelProto) -> dict[str, np.dtype]:
    """The dtype of every input, by name and in order; an input that has a value in the file is a
    constant."""
    constants = {tensor.name for tensor in model.graph.initializer}
    entries = [entry for entry in model.graph.input if entry.name not in constants]
    return {
        entry.name: onnx.helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)
        for entry in entries
    }


def joined(outputs: Sequence[Any]) -> NDArray[np.float32]:
    """One output as it is; several, each [N, ...], as the columns of one array [N, columns], in
    their order."""
    arrays = [np.asarray(output) for output in outputs]
    if len(arrays) == 1:
        return arrays[0]
    return np.concatenate([array.reshape(len(array), -1).astype(np.float32) for array in arrays], 1)
