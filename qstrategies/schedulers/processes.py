"""Several stages at a time, in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import types
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.queues import SimpleQueue

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
from qstrategies.schedulers.ready import Ready


@SCHEDULERS.register("processes")
class Processes(Scheduler):
    """Every process has its part of the cores, which all libraries keep to, and computes the bits
    that one alone computes with as many threads. One that is lost is replaced, and what it computed
    is computed again."""

    summary = "several stages at a time, in processes of this machine (--jobs)"

    def __init__(self, perform: Perform, resources: Resources) -> None:
        super().__init__(perform, resources)
        self.ready, self.lost = Ready(), Counter[str]()

    def submit(self, task: Task) -> None:
        self.ready.add(task)

    def wait(self) -> Iterator[Outcome]:
        while not self.ready.all_finished:
            with self._pool() as pool:
                try:
                    yield from self._until_broken(pool)
                except BaseException:  # before the pool waits for what they compute
                    for process in multiprocessing.active_children():
                        process.terminate()
                    raise

    def _pool(self) -> ProcessPoolExecutor:
        context = _Apart()
        shares = context.SimpleQueue()
        for share in self._shares():
            shares.put(share)
        return ProcessPoolExecutor(self.resources.jobs, context, _begin, (shares,))

    def _shares(self) -> list[set[int]]:
        """The cores of each process: all of them where there are not enough for all."""
        jobs, threads = self.resources.jobs, self.resources.threads
        cores = sorted(os.sched_getaffinity(0))
        if jobs * threads > len(cores):
            return [set(cores)] * jobs
        return [set(cores[each * threads : (each + 1) * threads]) for each in range(jobs)]

    def _until_broken(self, pool: ProcessPoolExecutor) -> Iterator[Outcome]:
        running: dict[Future[Outcome], Task] = {}
        try:
            while self.ready.queue or running:
                while self.ready.queue and len(running) < self.resources.jobs:
                    task = self.ready.queue[0]
                    running[pool.submit(self.perform, task, self.ready.parents(task))] = task
                    self.ready.queue.popleft()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    outcome = future.result()
                    del running[future]
                    self.ready.finish(outcome)
                    yield outcome
        except BrokenProcessPool:
            yield from self._again(list(running.values()))

    def _again(self, tasks: list[Task]) -> Iterator[Outcome]:
        """One of ``tasks`` has ended its process; which, nobody knows."""
        self.lost.update(task.name for task in tasks)
        for task in reversed(tasks):
            if self.lost[task.name] < ATTEMPTS:
                self.ready.queue.appendleft(task)
            else:
                self.ready.finish(lost(task))
                yield self.ready.outcomes[task.name]


class _Process(SpawnProcess):
    """Does not run the user's script again, as every other spawned process does."""

    def start(self) -> None:
        script = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            super().start()
        finally:
            sys.modules["__main__"] = script


class _Apart(SpawnContext):
    """Processes that have nothing of this one: threads of torch do not survive a fork."""

    Process = _Process


def _begin(shares: SimpleQueue[set[int]]) -> None:
    """A process has one of ``shares``, ends with its parent, and Ctrl-C ends it without a word."""
    os.sched_setaffinity(0, shares.get())
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)
