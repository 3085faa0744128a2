"""Which tasks of a plan can be computed now."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from qstrategies.schedulers.base import Outcome, Task


class Ready:
    """Tasks by what they wait for: each step costs as much as there are children."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.queue: deque[Task] = deque()
        self._missing: dict[str, int] = {}
        self._children: dict[str, list[str]] = {}

    def add(self, task: Task) -> None:
        """``task``, whose parents were added before."""
        self.tasks[task.name] = task
        missing = [name for name in task.parents if name not in self.outcomes]
        for name in missing:
            self._children.setdefault(name, []).append(task.name)
        self._missing[task.name] = len(missing)
        if not missing:
            self.queue.append(task)

    def finish(self, outcome: Outcome) -> None:
        """Its children may be ready now."""
        self.outcomes[outcome.name] = outcome
        for name in self._children.pop(outcome.name, ()):
            self._missing[name] -= 1
            if self._missing[name] == 0:
                self.queue.append(self.tasks[name])

    def parents(self, task: Task) -> Sequence[Outcome]:
        """The outcomes of what ``task`` needs."""
        return [self.outcomes[name] for name in task.parents]

    @property
    def unfinished(self) -> Iterator[Task]:
        """The tasks without an outcome."""
        return (task for name, task in self.tasks.items() if name not in self.outcomes)

    @property
    def all_finished(self) -> bool:
        """Whether every task has an outcome."""
        return len(self.outcomes) == len(self.tasks)
