"""An ONNX file in Python, and whether it gives the bits of its golden vectors. Needs numpy and
onnxruntime only, nothing of this package:

python examples/python/client.py exported/qat.onnx
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray


def generated(vector: dict[str, Any], entry: dict[str, Any]) -> NDArray[Any]:
    """The input ``entry``, whose integers are drawn from a seed (docs/specification.md)."""
    x, low, steps = vector["seed"], vector["low"], vector["high"] - vector["low"] + 1
    integers = np.empty(entry["shape"], np.uint8)
    for place in np.ndindex(*entry["shape"]):
        x = (1664525 * x + 1013904223) % 2**32
        integers[place] = low + (x // 2**24) * steps // 256
    return integers if entry["dtype"] == "uint8" else reals(integers, entry)


def reals(integers: Any, entry: dict[str, Any]) -> NDArray[np.float32]:
    """The real values that ``integers`` stand for."""
    steps = np.asarray(integers, np.float32) - np.float32(entry["zero_point"])
    return steps * np.float32(entry["scale"])


def is_equal(
    session: onnxruntime.InferenceSession, golden: dict[str, Any], vector: dict[str, Any]
) -> bool:
    """Whether the file gives every bit of ``vector``."""
    inputs = zip(golden["inputs"], vector["inputs"], strict=True)
    feeds = {entry["name"]: generated(drawn, entry) for entry, drawn in inputs}
    found = session.run([entry["name"] for entry in golden["outputs"]], feeds)
    expected = zip(golden["outputs"], vector["outputs"], strict=True)
    bits = [reals(integers, entry).tobytes() for entry, integers in expected]
    return bits == [array.tobytes() for array in found]


def main(path: Path) -> int:
    """Print whether all vectors beside the file come out; the exit code."""
    golden = json.loads(path.with_suffix(".vectors.json").read_text())
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    equal = [is_equal(session, golden, vector) for vector in golden["vectors"]]
    verdict = "equal" if all(equal) else "NOT equal"
    print(f"{path}: {verdict}, {sum(equal)} of {len(equal)} golden vectors")
    return 0 if all(equal) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
