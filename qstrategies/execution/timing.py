"""Latency and throughput of ONNX files in ONNX Runtime, measured in turn so that a noisy machine
treats all alike."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qstrategies.records import Speed
from qstrategies.runtimes.onnx_runtime import OnnxRuntime

ROUNDS = 5


def interleaved(
    actions: Sequence[Callable[[], object]], repeats: int, rounds: int = ROUNDS
) -> list[float]:
    """Seconds per call of each action: the least mean over ``rounds``, in each of which all actions
    take turns."""
    means: list[list[float]] = [[] for _ in actions]
    for _ in range(rounds):
        for action, collected in zip(actions, means, strict=True):
            started = time.perf_counter()
            for _ in range(repeats):
                action()
            collected.append((time.perf_counter() - started) / repeats)
    return [min(collected) for collected in means]


def seconds_per_call(paths: Sequence[Path], images: NDArray[np.uint8], repeats: int) -> list[float]:
    """Seconds of one call with the batch ``images`` [N, C, H, W] for each file, one thread,
    interleaved."""
    sessions = [OnnxRuntime(path, threads=1) for path in paths]
    return interleaved([functools.partial(session.run, images) for session in sessions], repeats)


def measure(baseline: Path, paths: Sequence[Path], images: NDArray[np.uint8]) -> tuple[Speed, ...]:
    """Speed of ``baseline`` (the float file) and of every file in ``paths``, with the ratio to the
    baseline."""
    files = [baseline, *paths]
    single = seconds_per_call(files, images[:1], repeats=100)
    batch = seconds_per_call(files, images[:256], repeats=1)
    return tuple(
        Speed(
            file=path.name,
            microseconds_batch_1=one * 1e6,
            images_per_second_batch_256=len(images[:256]) / many,
            speedup_batch_1=single[0] / one,
            speedup_batch_256=batch[0] / many,
        )
        for path, one, many in zip(files, single, batch, strict=True)
    )
