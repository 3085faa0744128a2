"""Copy the int8 models of a comparison into exported/, with golden vectors, card and checksums:
python experiments/collect_exported.py RUNS [--into exported]."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qstrategies.cli import guarded
from qstrategies.datasets import made_dataset
from qstrategies.datasets.base import Location
from qstrategies.execution.subject import Subject
from qstrategies.experiment.comparison import read_records
from qstrategies.export.tflite.memory import memory_of
from qstrategies.files import atomic_write, sha256
from qstrategies.models import MODELS
from qstrategies.records import ExperimentConfig, RunRecord
from qstrategies.specification.vectors import SUFFIX, vectors_path
from qstrategies.text import file_name, markdown

TARGET = Path(__file__).parent.parent / "exported"
HEADER = """\
# Card of {model}{kernels}

What: int8 models of `{model}` ({layers}), one per strategy,
8 weight bits, seed 0, from one comparison (`{command}`, then `python experiments/collect_exported.py runs`).

Input: `image`, uint8 [batch, {shape}], raw grey pixels 0...255, light strokes on dark ground. Output: `logits`, float32
[batch, {classes}]. Labels: {labels}. Trained on the training images of `{dataset}` ({data}) but for
those for validation; accuracy on its test images.

`NAME.onnx` computes in integers throughout; `NAME.fast.onnx` suits the kernels of ONNX Runtime, its first layer in float. Both give the
same bits, in every engine of PyTorch and every optimisation level of ONNX Runtime. Opset 19, IR 9.

`NAME.vectors.json` has golden vectors: inputs that a generator of one line makes, the SHA-256 of every tensor of `NAME.onnx` for them,
and the outputs in full, which are those of `NAME.fast.onnx` too.

{forms}Versions: {packages}. Code: commit {commit}.

"""  # noqa: E501
NOTES = {
    "safetensors": """\
`NAME.safetensors` is for PyTorch: `qs.load(path)` has `int8(engine)`, `reference()`, `module()`.

""",
    "tflite": """\
`NAME.tflite` has the same integers for LiteRT and TensorFlow Lite Micro, and gives the same bits there: int8 less 128, one image [1, 28, 28, 1]
at a time. It is used from flash as it is; RAM is what its tensors need at once, to which TensorFlow Lite Micro adds some kilobytes of its own.

""",  # noqa: E501
}
"""By form."""


def collect(runs: Path, into: Path) -> int:
    """Write models, golden vectors, CARD.md and SHA256SUMS to ``into``."""
    records = [
        record
        for record in read_records(runs)
        if record.config.quantization.weight_bits == 8 and record.config.seed == 0
    ]
    for_chips = any("tflite" in record.config.forms for record in records)
    columns = ["file", "accuracy", "float model", "bytes", *["RAM"] * for_chips, "how trained"]
    rows: list[list[str]] = [columns, ["---", *["---:"] * (len(columns) - 2), "---"]]
    sums = []
    for record in records:
        for name in record.files:
            data = (runs / record.config.run_id / name).read_bytes()
            target = file_name(record.config.strategy) + name.removeprefix("model")
            atomic_write(into / target, data)
            accuracies = [f"{record.int8_accuracy:.2%}", f"{record.float_accuracy:.2%}"]
            sizes = [str(len(data)), *[ram(into / target)] * for_chips]
            rows.append([markdown(target), *accuracies, *sizes, markdown(how(record))])
            sums.append(f"{sha256(data)}  {target}")
        vectors = vectors_path(runs / record.config.run_id / "model.onnx").read_bytes()
        target = file_name(record.config.strategy) + SUFFIX
        atomic_write(into / target, vectors)
        sums.append(f"{sha256(vectors)}  {target}")
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    first = Subject.of(into / f"{file_name(records[0].config.strategy)}.onnx")
    atomic_write(into / "CARD.md", head(records[0].config, first) + table)
    atomic_write(into / "SHA256SUMS", "\n".join(sums) + "\n")
    return 0


def head(config: ExperimentConfig, file: Subject) -> str:
    """What the card says above its table."""
    metadata, (shape, *_) = file.metadata, file.shapes
    model = MODELS.get(config.model)
    dataset = made_dataset(config.dataset, Location())
    packages = ", ".join(f"{name} {version}" for name, version in metadata["packages"].items())
    return HEADER.format(
        model=config.model,
        kernels=", for fixed-point kernels" * config.quantization.fixed_point,
        layers=" ".join((model.__doc__ or "").partition(".\n")[0].split()),
        command=command(config),
        shape=", ".join(map(str, shape[1:])),
        classes=len(metadata["labels"]),
        labels=", ".join(metadata["labels"]),
        dataset=config.dataset,
        data=dataset.summary,
        forms="".join(NOTES[form] for form in config.forms if form in NOTES),
        packages=packages,
        commit=metadata["commit"],
    )


def command(config: ExperimentConfig) -> str:
    """What wrote the runs, but for where data is found."""
    default = ExperimentConfig(strategy=config.strategy)
    words = ["qstrategies compare"]
    words += [
        f"--{name} {getattr(config, name)}"
        for name in ("model", "dataset")
        if getattr(config, name) != getattr(default, name)
    ]
    words += ["--fixed-point"] * config.quantization.fixed_point
    return " ".join([*words, *(f"--form {form}" for form in config.forms)])


def ram(path: Path) -> str:
    """Bytes of the tensors that the TFLite file ``path`` needs at once; "-" for any other."""
    return str(memory_of(path).activations) if path.suffix == ".tflite" else "-"


def how(record: RunRecord) -> str:
    """The training in a few words."""
    epochs = (
        f"{record.epochs_before} + {len(record.curve)}"
        if record.epochs_before
        else str(len(record.curve))
    )
    options = "".join(f", {name} {value:g}" for name, value in record.config.options.items())
    return f"{record.config.strategy}, {epochs} epochs{options}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, help="the folder that compare wrote")
    parser.add_argument("--into", type=Path, default=TARGET, help="default: exported/")
    chosen = parser.parse_args()
    sys.exit(guarded(lambda: collect(chosen.runs, chosen.into)))
