"""The small protocol of everything that computes a plan: submit stages, wait for them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from qstrategies.records import ExperimentConfig


@dataclass(frozen=True)
class Task:
    """One stage of a plan.

    Attributes:
        name: what it makes, unique in the plan, and that of a file.
        stage: "float", "tuned" or "run".
        config: a configuration that needs it.
        parents: the names of the stages that must be finished before.
    """

    name: str
    stage: str
    config: ExperimentConfig
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of the task of ``name`` after ``seconds``.

    ``reason``: why it failed; ``refused`` where that is a mistake of the user's, else with a
    ``traceback`` unless the training diverged.
    """

    name: str
    seconds: float = 0.0
    reason: str | None = None
    traceback: str | None = None
    refused: bool = False


@dataclass(frozen=True)
class Resources:
    """``jobs`` stages at a time, each with ``threads``; ``folder`` is the one of the results, and
    ``machine`` the class of this machine (``records.machine_class``)."""

    jobs: int
    threads: int
    folder: Path
    machine: str


Perform = Callable[[Task, Sequence[Outcome]], Outcome]
"""Computes a task, given the outcomes of its parents; can be pickled. What it raises ends all."""
ATTEMPTS = 3
"""So many workers may be lost with a task until it counts as failed."""


class Scheduler(ABC):
    """Computes tasks whose parents are finished, in any order and place."""

    summary: ClassVar[str]
    here: ClassVar[bool] = False
    """Whether it computes in this process, one stage at a time."""

    def __init__(self, perform: Perform, resources: Resources) -> None:
        self.perform, self.resources = perform, resources
        self.tasks: list[Task] = []

    def submit(self, task: Task) -> None:
        """Take ``task``, whose parents were submitted before."""
        self.tasks.append(task)

    @abstractmethod
    def wait(self) -> Iterator[Outcome]:
        """The outcomes of all that was submitted, each as soon as it is there."""


def lost(task: Task) -> Outcome:
    """The outcome of a task that no worker survives."""
    reason = f"{ATTEMPTS} processes ended without a word while they computed it"
    return Outcome(task.name, reason=reason, traceback="none: killed, or out of memory")
