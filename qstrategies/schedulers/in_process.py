"""One stage after another, here."""

from __future__ import annotations

from collections.abc import Iterator

from qstrategies.schedulers import SCHEDULERS
from qstrategies.schedulers.base import Outcome, Scheduler


@SCHEDULERS.register("in_process")
class InProcess(Scheduler):
    """In the order in which tasks were submitted."""

    summary = "one stage after another, in this process"
    here = True

    def wait(self) -> Iterator[Outcome]:
        found: dict[str, Outcome] = {}
        for task in self.tasks:
            found[task.name] = self.perform(task, [found[name] for name in task.parents])
            yield found[task.name]
