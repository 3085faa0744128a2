"""Speed, as ratios in one run: training against the usual loop and the bare kernels, int8 against
float and quantize_static."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from common import config, options
from rivals import file_times, rival_rows
from tools import static_file
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from qstrategies.cli import guarded
from qstrategies.datasets.base import Split
from qstrategies.datasets.torchvision_import import torchvision
from qstrategies.evaluation import evaluate
from qstrategies.execution.timing import interleaved
from qstrategies.experiment import environment
from qstrategies.experiment.comparison import read_records
from qstrategies.experiment.runs import run_experiment
from qstrategies.experiment.trained import float_stage
from qstrategies.experiment.workspace import Workspace
from qstrategies.files import atomic_write
from qstrategies.models import MODELS
from qstrategies.pixels import to_input
from qstrategies.records import ExperimentConfig, RunRecord, TrainingConfig
from qstrategies.strategies import STRATEGIES
from qstrategies.training.hardware import compute_dtype
from qstrategies.training.loop import train
from qstrategies.training.trainee import Trainee

ROUNDS, IMAGES = 5, 25_600


class UsualTraining:
    """torchvision's MNIST, ToTensor, DataLoader, batch 64, Adam 1e-3, float32: the loop of most
    tutorials.

    It lives in a process of its own, as it would without this package, whose training sets the
    allocator of its process.
    """

    def __init__(self, root: Path) -> None:
        torchvision()  # the worker needs it: refused here, where the user sees it
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=usual_worker, args=(root, theirs), daemon=True)
        self.process.start()

    def train(self, images: int) -> None:
        """Train on so many more images."""
        self.connection.send(images)
        self.connection.recv()

    def test_accuracy(self) -> float:
        """The share of test images that are now right."""
        self.connection.send(0)
        return self.connection.recv()


def usual_worker(root: Path, connection: Connection) -> None:
    """Serve ``UsualTraining.train``."""
    torchvision()
    from torchvision import datasets, transforms

    train_set, test_set = (
        datasets.MNIST(str(root), train=train, transform=transforms.ToTensor())
        for train in (True, False)
    )
    torch.manual_seed(0)
    model = MODELS.get("cnn")().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with contextlib.suppress(EOFError):  # the other end is gone
        while True:
            wanted = connection.recv()
            usual_loop(model, optimizer, train_set, wanted)
            connection.send(None if wanted else usual_accuracy(model, test_set))


def usual_loop(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Dataset[Any], wanted: int
) -> None:
    """As it stands in most tutorials."""
    seen = 0
    while seen < wanted:
        for pixels, labels in DataLoader(images, batch_size=64, shuffle=True):
            loss = functional.cross_entropy(model(pixels), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen += len(labels)
            if seen >= wanted:
                break


def usual_accuracy(model: nn.Module, images: Dataset[Any]) -> float:
    """Test accuracy of the usual loop's model, as a fraction."""
    model.eval()
    with torch.no_grad():
        hits = torch.cat(
            [
                model(pixels).argmax(1) == labels
                for pixels, labels in DataLoader(images, batch_size=500)
            ]
        )
    model.train()
    return hits.float().mean().item()


def our_training(splits: dict[str, Split], batch_size: int) -> Callable[[], None]:
    """One epoch over ``IMAGES`` images with the package's own loop."""
    part = {
        "train": Split("train", splits["train"].images[:IMAGES], splits["train"].labels[:IMAGES])
    }
    part["validation"] = Split(
        "validation", splits["validation"].images[:2], splits["validation"].labels[:2]
    )
    one_epoch = TrainingConfig(epochs=1, batch_size=batch_size)

    def run() -> None:
        train(Trainee(MODELS.get("cnn")(), STRATEGIES.get("no_norm")()), part, one_epoch, 0)

    return run


def bare_kernels(batch_size: int) -> Callable[[], None]:
    """Forward and backward of the two convolutions and the linear layer alone, in the training's
    dtype and layout."""
    dtype = compute_dtype()
    model = MODELS.get("cnn")().to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    shapes = {model.conv1: (1, 28, 28), model.conv2: (32, 13, 13), model.fc: (1600,)}
    work = []
    for layer, shape in shapes.items():
        x = torch.rand(batch_size, *shape).to(dtype)
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        x.requires_grad_(layer is not model.conv1)  # nothing trains the images
        leaves = [leaf for leaf in (x, *layer.parameters()) if leaf.requires_grad]
        work.append((layer, x, leaves, torch.rand_like(layer(x))))

    def run() -> None:
        for _ in range(IMAGES // batch_size):
            for layer, x, leaves, gradient in work:
                torch.autograd.grad(layer(x), leaves, gradient)

    return run


def training_rows(workspace: Workspace, epochs: int) -> list[str]:
    """Images per second, the least time of ``ROUNDS`` rounds taken in turns, and the accuracy of
    both loops."""
    splits = workspace.dataset("mnist").splits
    usual = UsualTraining(workspace.location.root)
    names = [
        "usual loop",
        "this package, batch 64",
        "this package, batch 256 (default)",
        "bare kernels, batch 64",
        "bare kernels, batch 256",
    ]
    actions = [
        lambda: usual.train(IMAGES),
        our_training(splits, 64),
        our_training(splits, 256),
        bare_kernels(64),
        bare_kernels(256),
    ]
    rates = [IMAGES / seconds for seconds in interleaved(actions, 1, ROUNDS)]
    rows = [
        f"| {name} | {rate:.0f} | {rate / rates[0]:.2f} |"
        for name, rate in zip(names, rates, strict=True)
    ]
    rows.append(
        f"| share of the bare kernels' speed, batch 64 / 256 | | {rates[1] / rates[3]:.2f} "
        f"/ {rates[2] / rates[4]:.2f} |"
    )
    usual = UsualTraining(workspace.location.root)
    usual.train(epochs * 60_000)
    ours = MODELS.get("cnn")()
    train(Trainee(ours, STRATEGIES.get("no_norm")()), splits, TrainingConfig(epochs=epochs), 0)
    accuracies = {
        "usual loop": usual.test_accuracy(),
        "this package": evaluate(lambda images: ours(to_input(images)), splits["test"]).accuracy,
    }
    for name, accuracy in accuracies.items():
        rows.append(f"| test accuracy after {epochs} epochs, {name} | {accuracy:.2%} | |")
    return ["| training | images/s | ratio to the usual loop |", "| --- | ---: | ---: |", *rows]


def inference_rows(workspace: Workspace, epochs: int, seed: int) -> list[str]:
    """Microseconds per image on one thread; all files take turns."""
    base = ExperimentConfig(strategy="no_norm", training=TrainingConfig(epochs=epochs), seed=seed)
    run_experiment(base, workspace)
    stage = float_stage(base, workspace)
    folder = workspace.folder / base.run_id
    splits = workspace.dataset("mnist").splits
    images = splits["test"].images
    with tempfile.TemporaryDirectory() as scratch:
        static = static_file(stage.model, to_input(splits["train"].images[:256]), Path(scratch))
        float_file = workspace.stages / f"{stage.key[:24]}.float.onnx"
        files = {
            "float32": float_file,
            "quantize_static": static,
            "portable int8": folder / "model.onnx",
            "fast int8": folder / "model.fast.onnx",
        }
        times = {
            batch: file_times(list(files.values()), images[:batch].numpy(), repeats)
            for batch, repeats in ((1, 400), (64, 20), (256, 5))
        }
    rows = []
    for index, name in enumerate(files):
        cells = [
            (
                f"| {mine[index] / batch * 1e6:.1f} | {mine[0] / mine[index]:.2f} | "
                f"{mine[1] / mine[index]:.2f} "
            )
            for batch, mine in times.items()
        ]
        rows.append(f"| {name} {''.join(cells)}|")
    columns = " | ".join(
        f"us/image, batch {batch} | against float | against static" for batch in times
    )
    return [f"| file | {columns} |", "| --- |" + " ---: |" * 9, *rows]


def reuse_rows(records: list[RunRecord]) -> list[str]:
    """What the comparison took, and what its runs would have taken had each trained all that it
    depends on."""
    floats = {
        record.config.strategy: trained(record) for record in records if record.starts_from is None
    }
    actual = sum(sum(record.seconds.values()) for record in records)
    alone = 0.0
    for record in records:
        others = sum(seconds for name, seconds in record.seconds.items() if name != "train")
        alone += (
            others
            + trained(record)
            + (floats.get(record.starts_from, 0.0) if record.starts_from else 0.0)
        )
    peak = max(record.peak_bytes or 0 for record in records)
    return [
        "| comparison | |",
        "| --- | ---: |",
        f"| {len(records)} runs with shared stages | {actual:.0f} s |",
        f"| the same runs one by one, from the measured time of every stage | {alone:.0f} s |",
        f"| ratio | {actual / alone:.2f} |",
        f"| peak memory | {peak / 1e6:.0f} MB |",
    ]


def trained(record: RunRecord) -> float:
    """Seconds of the run's own training."""
    return sum(epoch.seconds for epoch in record.curve)


def main() -> int:
    """Measure, print, and write the table."""
    chosen = options(__doc__)
    epochs = config(chosen).training.epochs
    workspace = Workspace(chosen.out)
    started = time.strftime("%Y-%m-%d")
    text = f"# Speed\n\nWritten by `python experiments/benchmark.py` on {started}: {machine()}.\n"
    for rows in measurements(workspace, epochs, chosen.seed):
        text += "\n" + "\n".join(rows) + "\n"
        atomic_write(chosen.out / "benchmark.md", text)
    print(text)
    return 0


def measurements(workspace: Workspace, epochs: int, seed: int) -> Iterator[list[str]]:
    """One table after the other."""
    yield training_rows(workspace, epochs)
    yield inference_rows(workspace, epochs, seed)
    yield rival_rows(sys.executable)
    comparison = Path("runs")
    if list(comparison.glob("*/record.json")):
        yield reuse_rows(read_records(comparison))


def machine() -> str:
    """What was measured on."""
    here = environment.describe()
    packages = ", ".join(f"{name} {here['packages'][name]}" for name in ("torch", "onnxruntime"))
    return (
        f"{here['cpu']}, {here['threads']} threads, {', '.join(here['cpu_flags'])}; training "
        f"in {here['training_dtype']}; {packages}"
    )


if __name__ == "__main__":
    sys.exit(guarded(main))
