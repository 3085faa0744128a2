"""What strategies cost: an epoch of each QAT strategy beside a float epoch, and the seconds of
those that choose integers without training.

python experiments/strategy_speed.py [--rounds 3] [--out docs/strategy_speed.md]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from torch import nn
from zoo import classifier, random_images

import qstrategies as qs
from qstrategies.cli import guarded
from qstrategies.datasets.split import Split
from qstrategies.experiment.environment import describe
from qstrategies.files import atomic_write
from qstrategies.records import TrainingConfig
from qstrategies.strategies import STRATEGIES
from qstrategies.training.loop import train
from qstrategies.training.trainee import Trainee

TRAINED = {"cnn": (50, 256), "resnet18": (4, 64)}
"""Batches of an epoch here, and their size."""
SIZE, LARGE = 64, 224  # pixels of torchvision's networks: trained, rounded
INTEGERS = ("mse_clip", "bias_correction", "cle", "gptq", "adaround", "brecq", "qdrop")
IMAGES = 256  # of calibration
FLOAT = "no_norm"
HEAD = """# What strategies cost

Written by `python experiments/strategy_speed.py` on {cpu}.

An epoch of each QAT strategy as a multiple of a float epoch of the same loop: CPU time of one
thread, the least of {rounds} rounds taken in turns; `cnn` in batches of 256, torchvision's resnet18
at {size} x {size} pixels in batches of 64. Both train in {dtype}.

| strategy | cnn | resnet18 |
| --- | ---: | ---: |
"""
ROUNDING = """
Seconds of strategies that train nothing, from the float model to its integers, {images} images of
calibration, {threads} threads; resnet18 at {large} x {large} pixels. *no_norm* rounds plainly.

| strategy | cnn | resnet18 |
| --- | ---: | ---: |
"""


def data(shape: tuple[int, ...], batches: int, size: int) -> dict[str, Split]:
    """Random pixels and labels."""
    images = (random_images(batches * size, shape) * 255).to(torch.uint8)
    labels = torch.arange(len(images)) % 10
    parts = {"train": Split("train", images, labels)}
    return parts | {"validation": Split("validation", images[:2], labels[:2])}


def epoch(trainee: Trainee, splits: dict[str, Split], size: int) -> float:
    """CPU seconds of one epoch."""
    started = time.process_time()
    train(trainee, splits, TrainingConfig(epochs=1, batch_size=size), 0)
    return time.process_time() - started


def ratios(name: str, strategies: list[str], rounds: int) -> dict[str, float]:
    """Of an epoch of each to a float epoch, taken in turns."""
    model, shape = classifier(name, SIZE)
    batches, size = TRAINED[name]
    splits = data(shape, batches, size)
    example = splits["train"].images[:size] / 255
    taken: dict[str, list[float]] = {each: [] for each in (FLOAT, *strategies)}
    for _ in range(rounds):
        for each, seconds in taken.items():
            trainee = qs.prepare(model, example, each, input_scale=1 / 255, steps=batches)
            seconds.append(epoch(trainee, splits, size))
    return {each: min(taken[each]) / min(taken[FLOAT]) for each in strategies}


def rounding(model: nn.Module, shape: tuple[int, ...], strategy: str) -> float:
    """Seconds from a float model to its integers."""
    images = random_images(IMAGES, shape)
    batches = [(each, torch.zeros(len(each), dtype=torch.int64)) for each in images.split(32)]
    started = time.perf_counter()
    qs.quantize(model, batches, images[:2], strategy=strategy, input_scale=1 / 255)
    taken = time.perf_counter() - started
    print(f"{strategy}: {taken:.1f} s", flush=True)
    return taken


def table(names: list[str], columns: list[dict[str, float]], form: str) -> str:
    """A row for each name."""
    rows = [
        f"| {name} | {' | '.join(format(column[name], form) for column in columns)} |"
        for name in names
    ]
    return "\n".join(rows) + "\n"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs/strategy_speed.md"))
    chosen = parser.parse_args()
    trained = [each for each in STRATEGIES.names() if STRATEGIES.get(each).course.fake_quantized]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = [ratios(name, trained, chosen.rounds) for name in TRAINED]
    torch.set_num_threads(threads)
    text = HEAD.format(
        cpu=describe()["cpu"], rounds=chosen.rounds, size=SIZE, dtype=describe()["training_dtype"]
    )
    text += table(sorted(trained, key=lambda each: found[0][each]), found, ".2f")
    atomic_write(chosen.out, text)
    seconds = []
    for name in TRAINED:
        model, shape = classifier(name, LARGE)
        seconds.append({each: rounding(model, shape, each) for each in (FLOAT, *INTEGERS)})
    text += ROUNDING.format(images=IMAGES, threads=threads, large=LARGE)
    text += table([FLOAT, *INTEGERS], seconds, ".1f")
    atomic_write(chosen.out, text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
