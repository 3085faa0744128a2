"""Reading ONNX files that may come from anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx

from qstrategies.errors import InputError

LARGEST_FILE = 512 << 20


def load_checked(path: Path) -> onnx.ModelProto:
    """The model in ``path``; raises ``InputError`` if it is missing, too large, broken or not self-contained."""
    if not path.is_file():
        raise InputError(f"no such file: {str(path)!r}")
    if path.stat().st_size > LARGEST_FILE:
        raise InputError(f"{str(path)!r} has {path.stat().st_size >> 20} MB: at most {LARGEST_FILE >> 20} MB are read")
    try:
        model = onnx.load(str(path), load_external_data=False)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and the checker raise many unrelated types for a broken file
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{str(path)!r} is not a valid ONNX file: {reason[0]}") from None
    if any(tensor.external_data for tensor in model.graph.initializer):
        raise InputError(f"{str(path)!r} keeps its weights in other files: only self-contained files are read")
    return model


def read_metadata(path: Path) -> dict[str, Any]:
    """What ``export_onnx`` stored in ``path``; raises ``InputError`` for a broken file or one of another tool."""
    model = load_checked(path)
    if model.producer_name != "qstrategies":
        raise InputError(f"{str(path)!r} was not exported by qstrategies (its producer is {model.producer_name!r})")
    try:
        return {item.key: json.loads(item.value) for item in model.metadata_props}
    except ValueError:
        raise InputError(f"{str(path)!r} has damaged metadata") from None
