"""Tasks -> outcomes, by a scheduler, with what is left to do shown on the way."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from qstrategies.errors import InputError
from qstrategies.experiment.environment import here
from qstrategies.experiment.tasks import Setting, perform, perform_there, work_of
from qstrategies.experiment.workspace import Workspace, check_config
from qstrategies.records import RECORD, read_record
from qstrategies.schedulers import SCHEDULERS
from qstrategies.schedulers.base import Outcome, Resources, Task
from qstrategies.schedulers.folder import Place, work


def scheduler_for(scheduler: str, jobs: int) -> str:
    """What computes ``jobs`` stages at a time where ``scheduler`` was asked for: several in this
    process are "processes"."""
    return "processes" if jobs > 1 and scheduler == "in_process" else scheduler


def resources_of(scheduler: str, jobs: int, threads: int | None, folder: Path) -> Resources:
    """For ``jobs`` stages at a time, each with ``threads`` (None: what is left to it).

    Raises ``InputError`` for several jobs where one process computes one stage at a time.
    """
    if not SCHEDULERS.get(scheduler).here:
        cores = len(os.sched_getaffinity(0))
        return Resources(jobs, threads or max(1, cores // jobs), folder, here())
    if jobs > 1:
        raise InputError(
            f"scheduler {scheduler!r} computes one stage at a time in each process, got {jobs} "
            "jobs: start `qstrategies work` as often as you like"
        )
    return Resources(1, torch.get_num_threads(), folder, here())


def compute(
    tasks: Sequence[Task], workspace: Workspace, scheduler: str, resources: Resources
) -> dict[str, Outcome]:
    """The outcome of each of ``tasks``, parents first, by name."""
    kind = SCHEDULERS.get(scheduler)
    performing = functools.partial(perform, workspace)
    if not kind.here:
        setting = Setting.of(workspace, resources.threads, tasks)
        performing = functools.partial(perform_there, setting)
    chosen = kind(performing, resources)
    for task in tasks:
        chosen.submit(task)
    known = {task.name: task for task in tasks}
    left = work_of(tasks)
    workspace.progress.left = left.copy()
    found: dict[str, Outcome] = {}
    for outcome in chosen.wait():
        task = known[outcome.name]
        found[outcome.name] = outcome
        _show(workspace, task, outcome, elsewhere=not kind.here)
        left -= work_of([task])
        workspace.progress.left = left.copy()
    return found


def join(workspace: Workspace) -> tuple[int, int]:
    """Compute stages of the plan in the folder of ``workspace`` beside others, until all that is
    left is for machines of another class: how many are finished, and how many are not.

    Raises:
        InputError: there is no plan, or it needs models or data that are not known here.
    """
    place = Place(workspace.folder, here())
    tasks = {task.name: task for task in place.tasks()}
    for task in tasks.values():
        check_config(task.config)
    finished = 0
    for outcome in work(place, functools.partial(perform, workspace), leaves=True):
        _show(workspace, tasks[outcome.name], outcome, elsewhere=False)
        finished += 1
    return finished, len(tasks) - finished


def _show(workspace: Workspace, task: Task, outcome: Outcome, *, elsewhere: bool) -> None:
    """Say what became of ``task``; trainings of this process say it themselves."""
    if task.stage == "run" or elsewhere:
        (work, pieces), *_ = work_of([task]).items()
        workspace.progress.advance(work, f"{_label(workspace, task, outcome)}", pieces)


def _label(workspace: Workspace, task: Task, outcome: Outcome) -> str:
    config = task.config
    label = f"{config.strategy} {config.quantization.width} seed {config.seed}"
    label += f" draw {config.calibration_draw}" if config.calibration_draw else ""
    if outcome.reason is not None:
        return f"{label}: failed: {outcome.reason}"
    if task.stage != "run":
        return f"{label}: {task.stage} model, {outcome.seconds:.0f} s"
    record = read_record(workspace.folder / config.run_id / RECORD)
    found = record.int8_accuracy
    done = f"failed: {record.reason}" if found is None else f"int8 {record.metric.shown(found)}"
    return f"{label}: {done}, {outcome.seconds:.0f} s"
