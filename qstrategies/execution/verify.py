"""``qstrategies verify``: an exported file in every runtime, against the bits that PyTorch gave."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from qstrategies.execution.subject import REFERENCES, Subject
from qstrategies.export.forms import executors_of
from qstrategies.export.tflite.memory import memory_of
from qstrategies.guest import guest
from qstrategies.onnx_file import INTEGRITY
from qstrategies.records import Skipped
from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.base import refusing
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
GOOD = (None, "hold")
"""What ``verify`` may find of golden vectors."""


@guest
def verify(
    path: Path, location: Location = Location(), runtimes: Sequence[str] | None = None
) -> dict[str, Any]:
    """Run ``path`` over the test split of its dataset in every runtime (or those named); over
    random pixels if it names none.

    The reference is ONNX Runtime without optimisations, or LiteRT with XNNPACK for a TFLite file;
    the SHA-256 of its logits is held against that of PyTorch's int8 module, which the export stored
    in the file, and all its tensors against the golden vectors, if there are any beside it. Raises
    ``InputError`` for a broken file, one that holds a float model, an input that is no batch of a
    known shape, or a runtime that is unknown or takes other files.
    """
    (report,) = verify_together([path], location, runtimes)["files"]
    found: dict[str, Any] = report
    return found


@guest
def verify_together(
    paths: Sequence[Path],
    location: Location = Location(),
    runtimes: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Forms of one model, each as in ``verify``, all against the reference of one of them: of an
    ONNX file if there is one.

    Raises:
        InputError: as ``verify``; files of several datasets.
    """
    subjects = [Subject.of(path) for path in paths]
    subjects.sort(key=lambda subject: list(REFERENCES).index(subject.path.suffix))
    names = _names(runtimes, subjects)
    datasets = {subject.metadata.get("dataset") for subject in subjects}
    if len(datasets) > 1:
        raise InputError(f"the files name several datasets: {', '.join(map(str, datasets))}")
    reference: Evaluation | None = None
    reports = []
    for subject in subjects:
        inputs, labels = _examples(subject, location)
        if reference is None:
            reference = _reference(subject, inputs, labels)
        taken = [name for name in names if name in executors_of(subject.path)]
        reports.append(_report(subject, inputs, reference, taken))
    different = any(report["verdict"] == "different" for report in reports)
    return {"files": reports, "verdict": "different" if different else "same"}


def _names(runtimes: Sequence[str] | None, subjects: Sequence[Subject]) -> list[str]:
    """All of ``runtimes``, or those for ``subjects``."""
    suffixes = dict.fromkeys(subject.path.suffix for subject in subjects)
    known = [name for suffix in suffixes for name in executors_of(Path(f"model{suffix}"))]
    for name in runtimes or ():
        kind = RUNTIMES.get(name)  # an unknown name is an error before anything runs
        if name not in known:
            raise InputError(f"{name!r} runs only {kind.suffix} files: got {', '.join(suffixes)}")
    return known if runtimes is None else list(runtimes)


def _examples(
    subject: Subject, location: Location
) -> tuple[list[NDArray[Any]], NDArray[Any] | None]:
    """What ``subject`` is run on, and the labels if there are any."""
    if "dataset" not in subject.metadata:
        return list(subject.random_pixels()), None
    dataset = made_dataset(subject.metadata["dataset"], location)
    part = dataset.splits["test"].first(dataset.splits["test"].count(CHECKED_BYTES))
    labels = part.labels.numpy() if dataset.task is CLASSIFICATION else None
    return [subject.takes(part.images)], labels


def _reference(
    subject: Subject, inputs: Sequence[NDArray[Any]], labels: NDArray[Any] | None
) -> Evaluation:
    kind = RUNTIMES.get(subject.reference)
    if (reason := kind.missing()) is not None:
        raise InputError(
            f"{str(subject.path)!r} needs {subject.reference} to be verified: {reason}"
        )
    with refusing(subject.reference, subject.path):
        expected = run_in_batches(kind(subject.path), *inputs)
    guessed = "dataset" not in subject.metadata
    return Evaluation(expected, predicted(expected) if guessed else labels)


def _report(
    subject: Subject,
    inputs: Sequence[NDArray[Any]],
    reference: Evaluation,
    names: Sequence[str],
) -> dict[str, Any]:
    path, metadata, expected = subject.path, subject.metadata, reference.logits
    vectors = check_vectors(path) if path.suffix == ".onnx" else None
    checks: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    apart: dict[str, bool] = {}
    for name in names:
        found = check_runtime(name, path, inputs, reference, metadata.get("output_scale", 1.0))
        if isinstance(found, Skipped):
            skipped[name] = found.reason
            continue
        check, logits = found.check, found.outputs
        divergence = None
        if check.rows_equal < 1 and path.suffix == ".onnx":
            divergence = _divergence(name, path, inputs, logits, expected)
        hashed = "logits_sha256" in metadata and len(logits) == len(expected)
        bits = logits_hash(logits) == metadata["logits_sha256"] if hashed else None
        checks.append({**vars(check), "first_divergence": divergence, "pytorch_bits": bits})
        if check.rows_equal < 1 or bits is False:
            apart[name] = unexplained(check) or check.rows_equal == 1
    return {
        "file": str(path),
        "unchanged": subject.unchanged,
        "vectors": vectors,
        "memory": vars(memory_of(path)) if path.suffix == ".tflite" else None,
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
            if check["first_divergence"]:
                lines.append(line(f"{'':<22} first divergence: {check['first_divergence']}"))
            lines += [line(f"{'':<22} known: {check['known']}")] if check["known"] else []
    lines += [line(f"{name:<22} skipped: {reason}") for name, reason in report["skipped"].items()]
    if report["memory"] is not None:
        memory = "{flash} bytes of flash, {activations} of activations".format(**report["memory"])
        lines.append(f"on a chip: {memory}")
    if report["vectors"] is not None:
        lines.append(line(f"golden vectors: {report['vectors']}"))
    return "\n".join([*lines, f"Verdict: {verdict(report['verdict'] == 'same', report['apart'])}"])


def together_text(report: dict[str, Any]) -> str:
    """The reports of several files, and what they say together."""
    parts = [report_text(each) for each in report["files"]]
    same = report["verdict"] == "same"
    apart = dict.fromkeys(name for each in report["files"] for name in each["apart"])
    return "\n\n".join([*parts, f"Together: {verdict(same, list(apart))}"])
