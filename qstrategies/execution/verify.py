"""``qstrategies verify``: an exported file in every runtime, against the bits that PyTorch gave."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import Tensor

from qstrategies.datasets import made_dataset
from qstrategies.datasets.base import Location
from qstrategies.errors import InputError
from qstrategies.evaluation import BATCH, CHECKED_BYTES, Evaluation, predicted
from qstrategies.execution.crosscheck import REFERENCE, check_runtime, run_in_batches
from qstrategies.execution.distance import (
    Outputs,
    distance,
    logits_hash,
    unexplained,
    verdict,
)
from qstrategies.execution.divergence import first_divergence
from qstrategies.guest import guest
from qstrategies.onnx_file import INTEGRITY, load_checked, metadata_of, unchanged
from qstrategies.operators.base import Quantizer
from qstrategies.records import Skipped
from qstrategies.runtimes import RUNTIMES, runtimes_for
from qstrategies.runtimes.base import input_dtypes, refusing
from qstrategies.specification.vectors import first_difference, stored_vectors
from qstrategies.tasks import CLASSIFICATION
from qstrategies.text import line

RECORDED = {
    "strategy": "strategy",
    "weight_bits": "weight_bits",
    "levels": "levels",
    "recorded_accuracy": "accuracy",
    "metric": "metric",
    "recorded_figure": "figure",
}
RANDOM_IMAGES = 64
GOOD = (None, "hold")
"""What ``verify`` may find of golden vectors."""


@guest
def verify(
    path: Path, location: Location = Location(), runtimes: Sequence[str] | None = None
) -> dict[str, Any]:
    """Run ``path`` over the test split of its dataset in every runtime (or those named); over
    random pixels if it names none.

    The reference is ONNX Runtime without optimisations; its logits' SHA-256 is held against that of
    PyTorch's int8 module, which the export stored in the file, and all its tensors against the
    golden vectors, if there are any beside it. Raises ``InputError`` for a broken
    file, one that holds a float model, an input that is no batch of a known shape, or an unknown
    runtime.
    """
    model = load_checked(path)
    metadata = metadata_of(model, path)
    if metadata.get("form") == "float":
        raise InputError(f"{str(path)!r} is a float file: only int8 exports can be verified")
    names = list(runtimes or runtimes_for(path))
    for name in names:
        RUNTIMES.get(name)  # an unknown name is an error before anything runs
    if "dataset" in metadata:
        dataset = made_dataset(metadata["dataset"], location)
        part = dataset.splits["test"].first(dataset.splits["test"].count(CHECKED_BYTES))
        inputs = [for_file(part.images, model, metadata)]
        labels = part.labels.numpy() if dataset.task is CLASSIFICATION else None
        with refusing(REFERENCE, path):
            expected = run_in_batches(RUNTIMES.get(REFERENCE)(path), *inputs)
    else:
        inputs = _random_pixels(model, path)
        with refusing(REFERENCE, path):
            expected = run_in_batches(RUNTIMES.get(REFERENCE)(path), *inputs)
        labels = predicted(expected)
    reference = Evaluation(expected, labels)
    vectors = check_vectors(path)
    checks: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    apart: dict[str, bool] = {}
    for name in names:
        found = check_runtime(name, path, inputs, reference, metadata.get("output_scale", 1.0))
        if isinstance(found, Skipped):
            skipped[name] = found.reason
            continue
        check, logits = found.check, found.outputs
        divergence = (
            None if check.rows_equal == 1 else _divergence(name, path, inputs, logits, expected)
        )
        hashed = "logits_sha256" in metadata and len(logits) == len(expected)
        bits = logits_hash(logits) == metadata["logits_sha256"] if hashed else None
        checks.append({**vars(check), "first_divergence": divergence, "pytorch_bits": bits})
        if check.rows_equal < 1 or bits is False:
            apart[name] = unexplained(check) or check.rows_equal == 1
    return {
        "file": str(path),
        "unchanged": unchanged(model),
        "vectors": vectors,
        **{name: metadata.get(key) for name, key in RECORDED.items()},
        "checks": checks,
        "skipped": skipped,
        "apart": list(apart),
        "verdict": "different" if any(apart.values()) or vectors not in GOOD else "same",
    }


def check_vectors(path: Path) -> str | None:
    """Whether the golden vectors beside ``path`` "hold", or where they first do not; None if there
    are none. Raises ``InputError`` for a damaged file."""
    stored = stored_vectors(path)
    if stored is None:
        return None
    with refusing(REFERENCE, path):
        return first_difference(path, stored) or "hold"


def for_file(images: Tensor, model: onnx.ModelProto, metadata: dict[str, Any]) -> NDArray[Any]:
    """``images`` as a split keeps them, as the file takes them: real values as the integers of its
    quantizer."""
    takes_integers = set(input_dtypes(model).values()) == {np.dtype(np.uint8)}
    if not images.is_floating_point() or not takes_integers:
        return images.numpy()
    if "input_scale" not in metadata:
        raise InputError("the file does not say how it quantizes real values: export it again")
    quantizer = Quantizer(metadata["input_scale"], metadata["input_zero_point"])
    return quantizer.quantize(images).numpy()


def _divergence(
    name: str, path: Path, inputs: Sequence[NDArray[np.uint8]], logits: Outputs, expected: Outputs
) -> str:
    """Where runtime ``name`` first leaves the reference, in the batch of the first example whose
    ``logits`` are not as ``expected``."""
    start = 0
    if logits.shape == expected[: len(logits)].shape:
        different = (logits != expected[: len(logits)]).reshape(len(logits), -1).any(1)
        start = int(different.argmax()) // BATCH * BATCH
    batch = [array[start : start + BATCH] for array in inputs]
    try:
        found = first_divergence(path, RUNTIMES.get(name), RUNTIMES.get(REFERENCE), batch)
    except InputError as error:
        return f"not found: {error}"
    return (
        str(found) if found else "in no node alone: the file gives the same bits wherever it is cut"
    )


def _random_pixels(model: onnx.ModelProto, path: Path) -> list[NDArray[np.uint8]]:
    """Pixels 0...255 of the shapes that ``model`` takes, one array per input, from a fixed seed."""
    constants, random = (
        {tensor.name for tensor in model.graph.initializer},
        np.random.default_rng(0),
    )
    entries = [entry for entry in model.graph.input if entry.name not in constants]
    shapes = [[dim.dim_value for dim in entry.type.tensor_type.shape.dim] for entry in entries]
    if not shapes or any(len(shape) < 2 or min(shape[1:]) < 1 for shape in shapes):
        raise InputError(
            f"{str(path)!r} has no known test data, and no inputs [N, ...] of known shapes "
            "to make some for"
        )
    batch = max(shape[0] for shape in shapes) or RANDOM_IMAGES
    return [random.integers(0, 256, (batch, *shape[1:]), np.uint8) for shape in shapes]


def _levels(report: dict[str, Any]) -> str:
    """Files of earlier versions do not say it."""
    return f" ({report['levels']})" if report["levels"] else ""


def _recorded(report: dict[str, Any]) -> str | None:
    """The figure in the file's metadata; None if it has none."""
    if report["recorded_figure"] is not None:
        return f"{report['metric']} {report['recorded_figure']:.4g}"
    accuracy = report["recorded_accuracy"]
    return None if accuracy is None else f"accuracy {accuracy:.2%}"


def report_text(report: dict[str, Any]) -> str:
    """The report for a terminal."""
    source = "random pixels, since it names no dataset"
    recorded = _recorded(report)
    if recorded is not None:
        source = (
            f"{report['strategy']}, {report['weight_bits']} weight bits{_levels(report)}, recorded "
            f"{recorded}"
        )
    lines = [line(f"{report['file']}: {source}; {INTEGRITY[report['unchanged']]}")]
    lines.append(
        f"{'runtime':<22} {'images':>7} {'accuracy':>9} {'rows equal':>11} "
        f"{'max steps':>10}  PyTorch's bits"
    )
    for check in report["checks"]:
        pytorch = {None: "-", True: "yes", False: "NO"}[check["pytorch_bits"]]
        accuracy = "-" if check["accuracy"] is None else f"{check['accuracy']:.2%}"
        figures = f"{accuracy:>9} {check['rows_equal']:>11.2%} {distance(check['max_steps']):>10}"
        lines.append(f"{check['runtime']:<22} {check['images']:>7} {figures}  {pytorch}")
        if check["first_difference"]:
            lines.append(line(f"{'':<22} first difference: {check['first_difference']}"))
            lines.append(line(f"{'':<22} first divergence: {check['first_divergence']}"))
            lines += [line(f"{'':<22} known: {check['known']}")] if check["known"] else []
    lines += [line(f"{name:<22} skipped: {reason}") for name, reason in report["skipped"].items()]
    if report["vectors"] is not None:
        lines.append(line(f"golden vectors: {report['vectors']}"))
    return "\n".join([*lines, f"Verdict: {verdict(report['verdict'] == 'same', report['apart'])}"])
