"""A comparison as stages that can be computed anywhere: float parent, tuned child, run."""

from __future__ import annotations

import functools
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qstrategies import plugins
from qstrategies.datasets import DATASETS
from qstrategies.datasets.base import Location
from qstrategies.errors import InputError
from qstrategies.experiment.checkpoint import is_trained
from qstrategies.experiment.runs import record_failure, run_experiment
from qstrategies.experiment.trained import (
    epoch_of,
    float_settings,
    float_stage,
    parent_of,
    tuned_settings,
    tuned_stage,
)
from qstrategies.experiment.workspace import Workspace
from qstrategies.files import FileError
from qstrategies.guest import guest
from qstrategies.models import MODELS
from qstrategies.progress import Work
from qstrategies.records import ExperimentConfig, TrainingConfig, content_key
from qstrategies.registry import Registry
from qstrategies.runtimes import RUNTIMES
from qstrategies.schedulers.base import Outcome, Task
from qstrategies.strategies import STRATEGIES
from qstrategies.trackers import TRACKERS, open_tracker
from qstrategies.training.hardware import keep_freed_memory
from qstrategies.training.loop import TrainingDivergedError


def tasks_of(configs: Iterable[ExperimentConfig]) -> list[Task]:
    """The stages of the runs ``configs``, those that they share once, parents first."""
    tasks: dict[str, Task] = {}
    for config in configs:
        parents: tuple[str, ...] = ()
        for stage, settings in (("float", _float(config)), ("tuned", tuned_settings(config))):
            if settings is None:
                continue
            key = content_key([settings, *parents, _common(config)])
            task = Task(f"{stage}-{key[:24]}", stage, config, parents)
            tasks.setdefault(task.name, task)
            parents = (task.name,)
        tasks[config.run_id] = Task(config.run_id, "run", config, parents)
    return list(tasks.values())


def _float(config: ExperimentConfig) -> dict[str, Any] | None:
    return None if is_trained(config) else float_settings(config)


def _common(config: ExperimentConfig) -> list[Any]:
    return [config.model, config.dataset, config.start and config.start.sha256, config.seed]


@dataclass(frozen=True)
class Setting:
    """What another process needs to have the same ``Workspace``."""

    folder: Path
    location: Location
    threads: int
    trackers: tuple[str, ...] = ()
    used: tuple[str, ...] = ()

    @classmethod
    def of(cls, workspace: Workspace, threads: int, tasks: Sequence[Task]) -> Setting:
        """What makes a workspace like ``workspace`` for ``tasks``, where stages have ``threads``.

        Raises ``InputError`` for what other processes do not find.
        """
        kinds = {TRACKERS.get(name): name for name in TRACKERS.names()}
        trackers = tuple(kinds[type(each)] for each in workspace.trackers)
        needed = [*_needed(tasks), *((TRACKERS, name) for name in trackers)]
        used = plugins.used_elsewhere(needed)
        return cls(workspace.folder.absolute(), workspace.location, threads, trackers, used)

    def open(self) -> Workspace:
        """The workspace, with the user's own files imported, in a process that is only for it."""
        torch.set_num_threads(self.threads)
        keep_freed_memory()
        for path in self.used:
            plugins.use(Path(path))
        trackers = [open_tracker(name, self.folder) for name in self.trackers]
        return Workspace(self.folder, self.location, trackers=trackers)


def _needed(tasks: Sequence[Task]) -> list[tuple[Registry[Any], str]]:
    """What ``tasks`` find by name, each once; runs use all runtimes that there are."""
    found: dict[tuple[Registry[Any], str], None] = {}
    for config in (task.config for task in tasks):
        course = STRATEGIES.get(config.strategy).course
        names = [name for name in (config.strategy, course.parent) if name is not None]
        members = [member for name in names for member in STRATEGIES.members(name)]
        found |= dict.fromkeys((STRATEGIES, member) for member in members)
        found |= {(MODELS, config.model): None, (DATASETS, config.dataset): None}
    return [*found, *((RUNTIMES, name) for name in RUNTIMES.names())]


def perform_there(setting: Setting, task: Task, parents: Sequence[Outcome]) -> Outcome:
    """``perform`` in a process that has nothing yet."""
    return perform(_opened(setting), task, parents)


@functools.cache
def _opened(setting: Setting) -> Workspace:
    return setting.open()


@guest
def perform(workspace: Workspace, task: Task, parents: Sequence[Outcome]) -> Outcome:
    """Compute ``task``, or find it computed: a trained model, or a run with its record.

    What fails does not stop others: a run is then a record that says why. Only what the system
    refuses, as a full disk, is raised, as ``FileError``.
    """
    started = time.perf_counter()
    failed = next((each for each in parents if each.reason is not None), None)
    if failed is None:
        failed = _computed(workspace, task)
    reason, trace, refused = failed.reason, failed.traceback, failed.refused
    if task.stage == "run" and reason is not None:
        record_failure(task.config, workspace, reason, trace)
    return Outcome(task.name, time.perf_counter() - started, reason, trace, refused)


def _computed(workspace: Workspace, task: Task) -> Outcome:
    try:
        if task.stage == "run":
            run_experiment(task.config, workspace)
        else:
            _train(workspace, task)
    except FileError:
        raise
    except TrainingDivergedError as error:
        return Outcome(task.name, reason=str(error))
    except InputError as error:
        return Outcome(task.name, reason=str(error), refused=True)
    except Exception as error:  # whatever a user's model, data or strategy raises
        reason = f"{type(error).__name__}: {error}"
        return Outcome(task.name, reason=reason, traceback=traceback.format_exc())
    return Outcome(task.name)


def _train(workspace: Workspace, task: Task) -> None:
    baseline = float_stage(task.config, workspace)
    if task.stage == "tuned":
        tuned_stage(task.config, workspace, baseline)


def work_of(tasks: Iterable[Task]) -> Counter[Work]:
    """How many epochs and runs ``tasks`` are."""
    found: Counter[Work] = Counter()
    for task in tasks:
        found += _work(task)
    return found


def _work(task: Task) -> Counter[Work]:
    config, course = task.config, STRATEGIES.get(task.config.strategy).course
    if task.stage == "run":
        return Counter({Work(f"{config.checks} run", config.strategy): 1})
    if task.stage == "float":
        return Counter({epoch_of(parent_of(config)): config.training.epochs})
    schedule: TrainingConfig = getattr(config, str(course.schedule))
    return Counter({epoch_of(config.strategy): schedule.epochs})
