"""One ONNX file in every executor against reference logits, in steps of the output scale."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qstrategies.evaluation import BATCH, Evaluation
from qstrategies.records import RuntimeCheck, Skipped
from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.base import Runtime

Logits = NDArray[np.float32]


def cross_check(
    path: Path,
    images: NDArray[np.uint8],
    reference: Evaluation,
    output_scale: float,
    runtimes: Iterable[str] | None = None,
) -> tuple[list[RuntimeCheck], list[Skipped]]:
    """Compare each runtime (default: all that are registered) with ``reference`` over ``images`` [N, C, H, W].

    ``output_scale`` is the step of the logits. A runtime with an ``image_limit`` runs the first images only; one that
    is not installed is returned as skipped, with its reason.
    """
    checks, skipped = [], []
    for name in runtimes if runtimes is not None else RUNTIMES.names():
        kind = RUNTIMES.get(name)
        reason = kind.missing()
        if reason is not None:
            skipped.append(Skipped(runtime=name, reason=reason))
            continue
        logits = run_in_batches(kind(path), images[: kind.image_limit])
        checks.append(compare(name, path.name, logits, reference, output_scale))
    return checks, skipped


def run_in_batches(runtime: Runtime, images: NDArray[np.uint8]) -> Logits:
    """Logits [N, classes] of ``images`` [N, C, H, W]."""
    return np.concatenate([runtime.run(images[start : start + BATCH]) for start in range(0, len(images), BATCH)])


def compare(runtime: str, file: str, logits: Logits, reference: Evaluation, output_scale: float) -> RuntimeCheck:
    """Hold ``logits`` [n, classes] against the first n rows of ``reference``."""
    expected, labels = reference.logits[: len(logits)], reference.labels[: len(logits)]
    different = logits != expected
    predicted = logits.argmax(1)
    return RuntimeCheck(
        runtime=runtime,
        file=file,
        images=len(logits),
        accuracy=float((predicted == labels).mean()),
        agreement=float((predicted == expected.argmax(1)).mean()),
        rows_equal=float(1 - different.any(1).mean()),
        max_steps=float(np.abs(logits.astype(np.float64) - expected).max() / output_scale),
        first_difference=_first(different, logits, expected),
    )


def _first(different: NDArray[np.bool_], logits: Logits, expected: Logits) -> str | None:
    if not different.any():
        return None
    image, column = (int(index) for index in np.argwhere(different)[0])
    return f"image {image}, logit {column}: {logits[image, column]:g} instead of {expected[image, column]:g}"
