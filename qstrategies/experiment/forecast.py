"""What a comparison would compute, and how long that takes by what was measured before; nothing is
trained, and nothing is written to its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qstrategies.experiment.comparison import finished_runs
from qstrategies.experiment.stages import stage_file
from qstrategies.experiment.tasks import tasks_of, work_of
from qstrategies.experiment.trained import (
    epoch_of,
    float_inputs,
    parent_of,
    tuned_inputs,
    tuned_settings,
)
from qstrategies.experiment.workspace import Workspace
from qstrategies.files import RUNS_FOLDER, exists
from qstrategies.progress import Pace, Work
from qstrategies.records import ExperimentConfig, RunRecord, content_key, read_record
from qstrategies.schedulers.base import Task
from qstrategies.strategies import STRATEGIES


@dataclass(frozen=True)
class Piece:
    """A run or a training, and whether its result is kept already."""

    name: str
    kept: bool


@dataclass(frozen=True)
class Forecast:
    """The ``runs`` of a comparison, the ``trainings`` that unfinished ones need, and the time that
    is ``expected`` for what is not kept, one stage at a time, in words: empty where no such work
    was measured."""

    runs: Sequence[Piece]
    trainings: Sequence[Piece]
    expected: str


def forecast(configs: Sequence[ExperimentConfig], workspace: Workspace) -> Forecast:
    """What ``run_all`` would do with ``configs`` in ``workspace``.

    The time is that of earlier runs of the same models and data in its folder. What is kept of
    trainings depends on the threads of torch.
    """
    finished = finished_runs(configs, workspace)
    tasks = tasks_of(config for config in configs if config.run_id not in finished)
    kept = {task.name for task in tasks if task.stage != "run" and _is_kept(task, workspace)}
    left = work_of(task for task in tasks if task.name not in kept)
    return Forecast(
        [Piece(config.run_id, config.run_id in finished) for config in configs],
        [Piece(_title(task), task.name in kept) for task in tasks if task.stage != "run"],
        _pace(configs, workspace).expected(left),
    )


def _is_kept(task: Task, workspace: Workspace) -> bool:
    """Whether the trained model of ``task`` lies in ``workspace``."""
    if not exists(workspace.stages):
        return False
    key = content_key(float_inputs(task.config, workspace))
    if task.stage == "tuned":
        key = content_key(tuned_inputs(task.config, workspace, key))
    return exists(stage_file(workspace.stages, key))


def _title(task: Task) -> str:
    config, ((work, epochs), *_) = task.config, work_of([task]).items()
    quantized = STRATEGIES.get(work.strategy).course.fake_quantized
    width = f" {config.quantization.width}" if quantized else ""
    return f"{work.strategy}{width} seed {config.seed}, epochs: {epochs}"


def _pace(configs: Sequence[ExperimentConfig], workspace: Workspace) -> Pace:
    """What the runs of the same models and data took that lie in ``workspace``."""
    pace, alike = Pace(), {(config.model, config.dataset) for config in configs}
    for path in sorted(workspace.folder.glob(RUNS_FOLDER[0])):
        record = read_record(path)
        if record.status == "done" and (record.config.model, record.config.dataset) in alike:
            _add(pace, record)
    return pace


def _add(pace: Pace, record: RunRecord) -> None:
    """Tell ``pace`` of the epochs of ``record``, and of all that came after them."""
    config = record.config
    trained = parent_of(config) if tuned_settings(config) is None else config.strategy
    for epoch in record.curve:
        pace.add(epoch_of(trained), epoch.seconds)
    rest = sum(seconds for lap, seconds in record.seconds.items() if lap != "train")
    pace.add(Work(f"{config.checks} run", config.strategy), rest)
