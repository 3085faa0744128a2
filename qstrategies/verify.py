"""``qstrategies verify``: an exported file in every runtime, against the bits that PyTorch gave."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qstrategies.crosscheck import compare, run_in_batches
from qstrategies.datasets import DATASETS
from qstrategies.datasets.base import Location
from qstrategies.errors import InputError
from qstrategies.evaluation import Evaluation
from qstrategies.onnx_file import read_metadata
from qstrategies.pipeline import logits_hash
from qstrategies.runtimes import RUNTIMES

REFERENCE = "onnxruntime-disabled"


def verify(path: Path, location: Location = Location(), runtimes: Sequence[str] | None = None) -> dict[str, Any]:
    """Run ``path`` over the test split of its dataset in every runtime (or those named).

    The reference is ONNX Runtime without optimisations; its logits' SHA-256 is held against that of PyTorch's int8
    module, which the export stored in the file. Raises ``InputError`` for a broken or foreign file or an unknown runtime.
    """
    metadata = read_metadata(path)
    if "logits_sha256" not in metadata:
        raise InputError(f"{str(path)!r} is a {metadata.get('form', 'float')} file: only int8 exports can be verified")
    names = list(runtimes or RUNTIMES.names())
    kinds = {name: RUNTIMES.get(name) for name in [REFERENCE, *names]}
    split = DATASETS.get(metadata["dataset"])(location).splits["test"]
    images, labels = split.images.numpy(), split.labels.numpy()
    reference = Evaluation(run_in_batches(kinds[REFERENCE](path), images), labels)
    checks, skipped = [], {}
    for name in names:
        if (reason := kinds[name].missing()) is not None:
            skipped[name] = reason
            continue
        logits = run_in_batches(kinds[name](path), images[: kinds[name].image_limit])
        check = vars(compare(name, path.name, logits, reference, metadata["output_scale"]))
        whole = len(logits) == len(labels)
        checks.append({**check, "pytorch_bits": logits_hash(logits) == metadata["logits_sha256"] if whole else None})
    same = all(check["rows_equal"] == 1 and check["pytorch_bits"] is not False for check in checks)
    return {
        "file": str(path),
        "strategy": metadata["strategy"],
        "weight_bits": metadata["weight_bits"],
        "recorded_accuracy": metadata["accuracy"],
        "checks": checks,
        "skipped": skipped,
        "verdict": "same" if same else "different",
    }


def report_text(report: dict[str, Any]) -> str:
    """The report for a terminal."""
    lines = [
        f"{report['file']}: {report['strategy']}, {report['weight_bits']} weight bits, recorded accuracy {report['recorded_accuracy']:.2%}"
    ]
    lines.append(f"{'runtime':<22} {'images':>7} {'accuracy':>9} {'rows equal':>11} {'max steps':>10}  PyTorch's bits")
    for check in report["checks"]:
        pytorch = {None: "(part)", True: "yes", False: "NO"}[check["pytorch_bits"]]
        figures = f"{check['accuracy']:>9.2%} {check['rows_equal']:>11.2%} {check['max_steps']:>10g}"
        lines.append(f"{check['runtime']:<22} {check['images']:>7} {figures}  {pytorch}")
        if check["first_difference"]:
            lines.append(f"{'':<22} first difference: {check['first_difference']}")
    lines += [f"{name:<22} skipped: {reason}" for name, reason in report["skipped"].items()]
    verdict = "the same bits everywhere" if report["verdict"] == "same" else "DIFFERENT"
    return "\n".join([*lines, f"Verdict: {verdict}"])
