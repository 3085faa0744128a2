"""A comparison of many runs whose results are made up: how long planning, resuming, reading,
concluding and reporting take."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qstrategies.evidence import conclude
from qstrategies.experiment.comparison import finished_runs, plan, read_records
from qstrategies.experiment.dependencies import Inputs
from qstrategies.experiment.tasks import tasks_of
from qstrategies.experiment.workspace import Workspace
from qstrategies.records import (
    RECORD,
    Epoch,
    ExperimentConfig,
    RunRecord,
    RuntimeCheck,
    Speed,
    WeightHistogram,
)
from qstrategies.records.predictions import Predictions, SplitPredictions
from qstrategies.report.write import write_report
from qstrategies.schedulers.base import Outcome, Task

STRATEGIES = ("no_norm", "clamp", "finetune", "qat", "cle")
IMAGES = 1000
STEPS = ("plan", "resume", "read", "conclude", "report")
SPEED = Speed(
    file="model.onnx",
    microseconds_batch_1=50.0,
    images_per_second_batch_256=1.0,
    speedup_batch_1=1.0,
    speedup_batch_256=1.0,
)
HISTOGRAM = WeightHistogram(
    when="training", epoch=1, low=-1.0, high=1.0, max_abs=1.0, sigma=0.5, counts=(1, 2)
)
CHECK = RuntimeCheck(
    runtime="onnxruntime-all",
    file="model.onnx",
    images=IMAGES,
    accuracy=1.0,
    agreement=1.0,
    rows_equal=1.0,
    max_steps=0.0,
)


def nothing(task: Task, _: Sequence[Outcome]) -> Outcome:
    """No work at all."""
    return Outcome(task.name)


def rested(task: Task, _: Sequence[Outcome]) -> Outcome:
    """A second of sleep."""
    time.sleep(1)
    return Outcome(task.name)


def planned(runs: int) -> list[ExperimentConfig]:
    """The configurations of ``runs`` runs."""
    seeds = range(-(-runs // (2 * len(STRATEGIES))))
    return plan(ExperimentConfig(strategy="no_norm"), STRATEGIES, [8, 4], seeds)[:runs]


def seconds(runs: int) -> list[float]:
    """Of each of ``STEPS``, with ``runs`` runs."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        planning, configs = timed(lambda: planned(runs))
        tasks, _ = timed(lambda: tasks_of(configs))
        inputs = Inputs(workspace.dataset)
        for config in configs:
            write(workspace.folder, config, inputs.of_run(config))
        resuming, finished = timed(lambda: finished_runs(configs, workspace))
        assert len(finished) == runs
        reading, records = timed(lambda: read_records(workspace.folder))
        concluding, concluded = timed(lambda: conclude(records, workspace.folder))
        reporting, _ = timed(lambda: write_report(records, workspace.folder, *concluded))
        return [planning + tasks, resuming, reading, concluding, reporting]


def timed(compute: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came out."""
    started = time.perf_counter()
    result = compute()
    return time.perf_counter() - started, result


def write(root: Path, config: ExperimentConfig, inputs: dict[str, str]) -> None:
    """A finished run: float all right, int8 wrong on some of the first images."""
    wrong = config.seed % 7
    labels = np.arange(IMAGES) % 10
    int8 = np.where(np.arange(IMAGES) < wrong, labels + 1, labels)
    split = SplitPredictions(labels, labels, int8)
    Predictions(split, split).save(root / config.run_id)
    accuracy = 1 - wrong / IMAGES
    record = RunRecord(
        config=config,
        status="done",
        float_accuracy=1.0,
        int8_accuracy=accuracy,
        onnxruntime_accuracy=accuracy,
        validation_accuracy=accuracy,
        agreement=accuracy,
        checks=(CHECK,),
        speeds=(SPEED,),
        curve=(Epoch(loss=1.0, accuracy=accuracy, seconds=1.0),),
        histograms=(HISTOGRAM,),
        sizes={"portable": 1, "float": 4},
    )
    text = replace(record, inputs=inputs).to_json()
    (root / config.run_id / RECORD).write_text(text)


def table(runs: Sequence[int]) -> str:
    """Seconds of each step, for each number of runs."""
    columns = [seconds(each) for each in runs]
    head = f"| | {' | '.join(f'{each} runs' for each in runs)} |\n"
    lines = [
        f"| {step} | {' | '.join(f'{column[place]:.1f}' for column in columns)} |\n"
        for place, step in enumerate(STEPS)
    ]
    total = f"| all | {' | '.join(f'{sum(column):.1f}' for column in columns)} |\n"
    return f"{head}| --- |{' ---: |' * len(runs)}\n{''.join(lines)}{total}"
