"""How far the outputs of an executor lie from the reference, and in which words that is said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstrategies.evaluation import Evaluation
from qstrategies.files import sha256
from qstrategies.records import RuntimeCheck

Outputs = NDArray[np.float32]
Steps = float | NDArray[np.float64] | None


def unexplained(check: RuntimeCheck) -> bool:
    """Whether an executor gave other bits and nobody knows why."""
    return check.rows_equal < 1 and check.known is None


def distance(steps: float | None) -> str:
    """The largest distance for a table."""
    return "-" if steps is None else f"{steps:g}"


def verdict(same: bool, apart: Sequence[str]) -> str:
    """One line, given the executors that gave other bits, and whether it is known why."""
    if not same:
        return "DIFFERENT"
    return "the same bits everywhere" + (f" but in {', '.join(apart)}" if apart else "")


def compare(
    runtime: str, file: str, logits: Outputs, reference: Evaluation, output_scale: Steps
) -> RuntimeCheck:
    """Hold ``logits`` [n, classes, ...] against the first n rows of ``reference``. NaN is the same
    as NaN."""
    expected = reference.logits[: len(logits)]
    if logits.shape != expected.shape:
        return _other_shape(runtime, file, logits, expected)
    different = (logits != expected) & ~(np.isnan(logits) & np.isnan(expected))
    steps = 1.0 if output_scale is None else output_scale
    farthest = float(
        (np.abs(logits.astype(np.float64) - expected) / steps).max(where=different, initial=0)
    )
    return RuntimeCheck(
        runtime=runtime,
        file=file,
        images=len(logits),
        accuracy=reference.figure(logits),
        agreement=float((reference.kept(logits) == reference.kept(expected)).mean()),
        rows_equal=float(1 - different.reshape(len(different), -1).any(1).mean()),
        max_steps=farthest if np.isfinite(farthest) else None,
        first_difference=_first(different, logits, expected),
    )


def _other_shape(runtime: str, file: str, logits: Outputs, expected: Outputs) -> RuntimeCheck:
    shapes = f"an output {list(logits.shape)} instead of {list(expected.shape)}"
    return RuntimeCheck(
        runtime=runtime,
        file=file,
        images=len(logits) if logits.ndim else 0,
        accuracy=None,
        agreement=0.0,
        rows_equal=0.0,
        max_steps=None,
        first_difference=shapes,
    )


def _first(different: NDArray[np.bool_], logits: Outputs, expected: Outputs) -> str | None:
    if not different.any():
        return None
    image, *position = (int(index) for index in np.argwhere(different)[0])
    where = (image, *position)
    return (
        f"image {image}, logit {', '.join(map(str, position))}: {logits[where]:g} instead of "
        f"{expected[where]:g}"
    )


def logits_hash(logits: Any) -> str:
    """SHA-256 over the float32 logits [N, classes] of the whole test split: two executors agree iff
    the hashes do."""
    without_negative_zeros = np.ascontiguousarray(logits, np.float32) + 0.0
    return sha256(without_negative_zeros.tobytes())
