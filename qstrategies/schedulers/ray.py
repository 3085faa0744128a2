"""A cluster of Ray: stages are its tasks, and parents reach their children as references."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from typing import Any

from qstrategies.errors import InputError
from qstrategies.schedulers import SCHEDULERS
from qstrategies.schedulers.base import (
    ATTEMPTS,
    Outcome,
    Perform,
    Resources,
    Scheduler,
    Task,
    lost,
)

ADDRESS = "RAY_ADDRESS"
"""The environment variable of Ray that names a cluster."""
AT_ONCE = 1000


@SCHEDULERS.register("ray")
class Ray(Scheduler):
    """Nodes share the folder of the results; Ray computes again what a lost node had.

    No cluster is started here: its servers may listen to more than this machine.
    """

    summary = f"tasks of Ray, on the cluster at ${ADDRESS} (extra ray)"

    def __init__(self, perform: Perform, resources: Resources) -> None:
        super().__init__(perform, resources)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would send statistics
        try:
            self.ray: Any = importlib.import_module("ray")
        except ImportError:
            raise InputError(
                "the scheduler 'ray' needs Ray: pip install 'qstrategies[ray]'"
            ) from None
        if not self.ray.is_initialized():
            self._connect()
        run = self.ray.remote(num_cpus=resources.threads, max_retries=ATTEMPTS - 1)(_perform)
        self.run: Any = run
        self.performing = self.ray.put(perform)
        self.references: dict[str, Any] = {}
        self.submitted: dict[Any, Task] = {}

    def _connect(self) -> None:
        if ADDRESS not in os.environ:
            raise InputError(
                f"the scheduler 'ray' needs a cluster: `ray start --head`, then {ADDRESS}=auto"
            )
        try:
            self.ray.init(log_to_driver=False)
        except Exception as error:  # of many kinds
            where = os.environ[ADDRESS]
            raise InputError(
                f"no cluster of Ray at {ADDRESS}={where!r}: {error}; start one: `ray start --head`"
            ) from None

    def submit(self, task: Task) -> None:
        parents = [self.references[name] for name in task.parents]
        made = self.run.options(name=task.name).remote(self.performing, task, *parents)
        self.references[task.name] = made
        self.submitted[made] = task

    def wait(self) -> Iterator[Outcome]:
        waiting = list(self.submitted)
        while waiting:
            first, rest = waiting[:AT_ONCE], waiting[AT_ONCE:]
            done, left = self.ray.wait(first, num_returns=1)
            waiting = left + rest
            for reference in done:
                yield self._outcome(reference)

    def _outcome(self, reference: Any) -> Outcome:
        task = self.submitted[reference]
        try:
            outcome: Outcome = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:  # raised there, or on the way
            if isinstance(error.cause, InputError):
                raise error.cause from None
            return Outcome(task.name, reason=f"Ray: {error.cause}", traceback=str(error))
        except self.ray.exceptions.RayError:
            return lost(task)
        return outcome


def _perform(perform: Perform, task: Task, *parents: Outcome) -> Outcome:
    return perform(task, parents)
