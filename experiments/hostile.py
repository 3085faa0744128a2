"""Random QDQ files of other tools and of hostile authors: what the certificate promises of them
must be so.

    python experiments/hostile.py --examples 1000 [--seed 0]

Every file that is certified runs in ONNX Runtime at four levels, the ONNX reference evaluator and
the integer interpreter; one bit of difference is a failure, which is shrunk, printed and saved. The
rate of certified files is shown by operator, so that a certificate that refuses everything does not
pass.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from hostile_draft import Array
from hostile_graphs import Drawn, files
from hypothesis import HealthCheck, Phase, given, seed, settings

from qstrategies.certificate import Certificate, certify
from qstrategies.cli import guarded
from qstrategies.errors import InputError
from qstrategies.runtimes.integer_numpy import IntegerNumpy
from qstrategies.runtimes.onnx_reference import OnnxReference

LEVELS = {
    "disabled": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
INTEGER_KERNELS = ("extended", "all", "interpreter")
AT_ONCE = 1000  # files per run of hypothesis, whose memory grows with them

Outputs = list[Array]


@dataclass
class Tally:
    """How many files there were, by what became of them, and how many certified of those that hold
    an operator."""

    kinds: Counter[str] = field(default_factory=Counter)
    operators: Counter[str] = field(default_factory=Counter)
    certified: Counter[str] = field(default_factory=Counter)
    silent: Counter[str] = field(default_factory=Counter)
    odd: int = 0

    def add(self, drawn: Drawn, kind: str) -> None:
        """Enter one file."""
        self.kinds[kind] += 1
        names = {node.op_type for node in drawn.model.graph.node}
        self.operators.update(names)
        self.certified.update(names if kind == "certified" else ())
        self.odd += kind == "certified" and drawn.oddities > 0

    def __str__(self) -> str:
        total = max(self.kinds.total(), 1)
        lines = [
            f"{name:<22} {count:>7} {count / total:>7.1%}"
            for name, count in self.kinds.most_common()
        ]
        lines += [
            f"{self.odd} of the certified hold something odd",
            "",
            "operator                 files certified",
        ]
        lines += [
            f"{name:<22} {count:>7} {self.certified[name] / count:>9.1%}"
            for name, count in sorted(self.operators.items())
        ]
        lines += ["", "executors that do not take a certified file"]
        lines += [f"{count:>7} {name}" for name, count in self.silent.most_common()]
        return "\n".join(lines)


def check(drawn: Drawn, path: Path, tally: Tally) -> None:
    """Certify the file and hold its executors to what is promised; ``AssertionError`` if they
    differ."""
    path.write_bytes(drawn.model.SerializeToString())
    try:
        certificate = certify(path)
    except InputError:
        tally.add(drawn, "no valid file")
        return
    outputs: dict[str, Outputs] = {}
    for name in executors(certificate):
        found = run(name, path, drawn.inputs)
        if isinstance(found, str):
            tally.silent[f"{name}: {found}"] += 1
        else:
            outputs[name] = found
    runs = not set(LEVELS).isdisjoint(outputs) or not certificate.complete
    tally.add(drawn, _kind(certificate) if runs else "not taken by ONNX Runtime")
    different = list(differences(outputs))
    assert not different, f"\n{drawn}\n{_kind(certificate)}, but {'; '.join(different)}"


def _kind(certificate: Certificate) -> str:
    if certificate.complete:
        return "certified"
    held = [name for name in certificate.breaches if certificate.holds(name)]
    return " and ".join(held) or "not certified"


def executors(certificate: Certificate) -> tuple[str, ...]:
    """The executors for which the certificate gives a guarantee."""
    if not certificate.holds("float_executors"):
        return INTEGER_KERNELS if certificate.holds("integer_kernels") else ()
    return (
        ("disabled", "reference", "interpreter")
        if not certificate.holds("integer_kernels")
        else (*LEVELS, "reference", "interpreter")
    )


def run(name: str, path: Path, inputs: dict[str, Array]) -> Outputs | str:
    """The outputs of the file in executor ``name``, or why there are none."""
    try:
        if name in LEVELS:
            return _onnx_runtime(path, LEVELS[name], inputs)
        if name == "reference":
            return OnnxReference(path).outputs(inputs)
        return IntegerNumpy(path).outputs(*inputs.values())
    except Exception as error:  # every executor has types of its own for what it does not take
        lines = str(error).replace(str(path), "").splitlines() or [""]
        reason = re.sub("[0-9]+", "0", lines[0])  # so that like reasons are counted together
        return f"{type(error).__name__} {reason[-110:]}"


def _onnx_runtime(path: Path, level: Any, inputs: dict[str, Array]) -> Outputs:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [np.asarray(array) for array in session.run(None, inputs)]


def differences(outputs: dict[str, Outputs]) -> Iterator[str]:
    """What of ``outputs`` differs from the first executor's, in words."""
    (first, expected), *others = [*outputs.items()] or [("none", [])]
    for name, found in others:
        for index, (ours, theirs) in enumerate(zip(expected, found, strict=False)):
            if ours.shape != theirs.shape:
                yield f"output {index}: {first} gives {ours.shape}, {name} {theirs.shape}"
            elif not np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f"):
                place = tuple(np.argwhere(ours != theirs)[0])
                yield (
                    f"output {index} at {[int(i) for i in place]}: {first} gives "
                    f"{ours[place]!r}, {name} {theirs[place]!r}"
                )


def hunt(examples: int, first: int, tally: Tally, kept: Path) -> None:
    """Check ``examples`` files; raises ``AssertionError`` on the first failure, which it shrinks
    and copies to ``kept``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            print_blob=False,
            phases=[Phase.generate, Phase.shrink],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        @seed(first)
        @given(files())
        def each(drawn: Drawn) -> None:
            check(drawn, path, tally)

        try:
            each()
        except AssertionError:
            shutil.copy(path, kept)
            raise


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=1000, help="how many files (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the generator")
    parser.add_argument(
        "--keep",
        type=Path,
        default=Path("hostile.onnx"),
        help="where a failing file goes (default: hostile.onnx)",
    )
    chosen = parser.parse_args()
    tally = Tally()
    for start in range(0, chosen.examples, AT_ONCE):
        hunt(min(AT_ONCE, chosen.examples - start), chosen.seed * 10**6 + start, tally, chosen.keep)
    print(tally)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
