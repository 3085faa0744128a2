"""Latency and throughput of ONNX files in ONNX Runtime, measured in turn so that a noisy machine
treats all alike."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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


Loaded = tuple[Path, NDArray[Any]]
"""A file, and one batch [N, ...] as it takes it."""


def seconds_per_call(files: Sequence[Loaded], count: int, repeats: int) -> list[float]:
    """Seconds of one call with ``count`` examples of its batch for each file, one thread,
    interleaved."""
    sessions = [(OnnxRuntime(path, threads=1), inputs[:count]) for path, inputs in files]
    calls = [functools.partial(session.run, inputs) for session, inputs in sessions]
    return interleaved(calls, repeats)


def measure(baseline: Loaded, others: Sequence[Loaded]) -> tuple[Speed, ...]:
    """Speed of ``baseline`` (the float file) and of every other, with the ratio to the baseline."""
    files, examples = [baseline, *others], len(baseline[1][:256])
    single = seconds_per_call(files, 1, repeats=100)
    batch = seconds_per_call(files, 256, repeats=1)
    return tuple(
        Speed(
            file=path.name,
            microseconds_batch_1=one * 1e6,
            images_per_second_batch_256=examples / many,
            speedup_batch_1=single[0] / one,
            speedup_batch_256=batch[0] / many,
        )
        for (path, _), one, many in zip(files, single, batch, strict=True)
    )
