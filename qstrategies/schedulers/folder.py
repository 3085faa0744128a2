"""Several machines that share a folder: whoever runs ``qstrategies work FOLDER`` takes the next
stage.

``plan/plan.json`` says what there is to do. Who creates ``plan/claims/NAME.0`` first computes the
stage, and touches the file while it does; a claim that nobody has touched for long is given up, and
who creates ``NAME.1`` first computes the stage again. ``plan/done/NAME.json`` is its outcome. What
two compute at once, after a pause of one of them, is the same, and is renamed into place.

All stages of one seed are computed on one class of machine (``plan/classes/SEED``), since float
results differ between classes and a comparison pairs by seed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from qstrategies.errors import InputError
from qstrategies.files import atomic_write, make_folder, read_bytes
from qstrategies.schedulers import SCHEDULERS
from qstrategies.schedulers.base import (
    ATTEMPTS,
    Outcome,
    Perform,
    Scheduler,
    Task,
    lost,
)
from qstrategies.schedulers.ready import Ready
from qstrategies.typed_json import build, load

HEARTBEAT = 5.0
"""Seconds between two touches of a claim."""
GIVEN_UP = 60.0
"""Seconds after which a claim that nobody touches is that of a lost worker."""
PAUSE = 0.5
"""Seconds between two looks at what others have finished."""


@SCHEDULERS.register("folder")
class Folder(Scheduler):
    """This process is the first of the workers."""

    summary = "with every process that runs `qstrategies work FOLDER`, on machines that share it"
    here = True

    def wait(self) -> Iterator[Outcome]:
        place = Place(self.resources.folder, self.resources.machine)
        place.begin(self.tasks)
        yield from work(place, self.perform, leaves=False)


@dataclasses.dataclass(frozen=True)
class Claim:
    """A file that says who computes a stage, with which ``losses`` workers were lost before."""

    path: Path
    losses: int


class Place:
    """The folder ``plan`` below that of the results, for a machine of the class ``machine``."""

    def __init__(self, results: Path, machine: str) -> None:
        self.machine = machine
        self.folder = results / "plan"
        self.claims, self.done = self.folder / "claims", self.folder / "done"
        self.classes, self.plan = self.folder / "classes", self.folder / "plan.json"
        self._ours: dict[int, bool] = {}

    def begin(self, tasks: Sequence[Task]) -> None:
        """Write a new plan; outcomes and claims of an older one are no longer there."""
        for folder in (self.claims, self.done, self.classes):
            make_folder(folder)
            for path in folder.iterdir():
                path.unlink(missing_ok=True)
        content = {"tasks": [dataclasses.asdict(task) for task in tasks]}
        atomic_write(self.plan, json.dumps(content))

    def tasks(self) -> list[Task]:
        """Those of the plan. Raises ``InputError`` if there is none, or a damaged one."""
        if not self.plan.is_file():
            raise InputError(
                f"{str(self.plan)!r} is not there: run `qstrategies compare --scheduler folder "
                f"--out {self.folder.parent}` first"
            )
        content = load(read_bytes(self.plan))
        tasks: list[Task] = build(list[Task], content.get("tasks"), "the plan")
        return tasks

    def outcome(self, name: str) -> Outcome:
        """Of the finished task ``name``."""
        found: Outcome = build(Outcome, load(read_bytes(self.done / f"{name}.json")), "an outcome")
        return found

    def finish(self, outcome: Outcome) -> None:
        """Let everybody know."""
        content = json.dumps(dataclasses.asdict(outcome))
        atomic_write(self.done / f"{outcome.name}.json", content)

    def finished(self) -> set[str]:
        """The names of all tasks that have an outcome."""
        return {path.stem for path in self.done.glob("*.json")}

    def is_for_us(self, task: Task) -> bool:
        """Whether this machine is of the class that computes the seed of ``task``: that of the
        first who asks."""
        seed = task.config.seed
        if seed not in self._ours:
            path = self.classes / str(seed)
            ours = _created(path, self.machine) or path.read_text() == self.machine
            self._ours[seed] = ours
        return self._ours[seed]

    def claim(self, task: Task) -> Claim | None:
        """The claim on ``task`` that is ours now; None if somebody else has one."""
        for losses in range(ATTEMPTS + 1):
            path = self.claims / f"{task.name}.{losses}"
            if _created(path, ""):  # by one only, however many have seen that the last is lost
                return Claim(path, losses)
            if self._age(path) < GIVEN_UP:
                return None
        return None

    def _age(self, path: Path) -> float:
        """Seconds since ``path`` was touched, by the clock of the file system."""
        probe = self.claims / f".probe-{uuid.uuid4().hex}"
        probe.touch()
        try:
            return probe.stat().st_mtime - path.stat().st_mtime
        except FileNotFoundError:
            return 0.0
        finally:
            probe.unlink()


def work(place: Place, perform: Perform, *, leaves: bool) -> Iterator[Outcome]:
    """Compute what nobody else does, until all is finished; the outcomes of everybody.

    ``leaves``: whether to end when all that is left is for machines of another class.
    """
    ready, refused = Ready(), deque[Task]()
    for task in place.tasks():
        ready.add(task)
    looked = -PAUSE
    while not ready.all_finished:
        if time.monotonic() - looked >= PAUSE:  # seldom: it lists all that is finished
            looked = time.monotonic()
            for name in (place.finished() & ready.tasks.keys()) - ready.outcomes.keys():
                ready.finish(place.outcome(name))
                yield ready.outcomes[name]
        outcome = _next(place, ready, refused, perform)
        if outcome is not None:
            ready.finish(outcome)
            yield outcome
            continue
        if leaves and not any(place.is_for_us(task) for task in ready.unfinished):
            return
        time.sleep(PAUSE)
        ready.queue.extend(refused)
        refused.clear()


def _next(place: Place, ready: Ready, refused: deque[Task], perform: Perform) -> Outcome | None:
    """Compute the first ready task that can be claimed; None if there is none now."""
    while ready.queue:
        task = ready.queue.popleft()
        if task.name in ready.outcomes:
            continue
        claim = place.claim(task) if place.is_for_us(task) else None
        if claim is None:
            refused.append(task)
            continue
        if (place.done / f"{task.name}.json").exists():  # by who has just given up the claim
            return place.outcome(task.name)
        with _touched(claim.path):
            fine = claim.losses < ATTEMPTS
            outcome = perform(task, ready.parents(task)) if fine else lost(task)
            place.finish(outcome)
        return outcome
    return None


@contextlib.contextmanager
def _touched(claim: Path) -> Iterator[None]:
    """``claim`` shows that its owner lives; it is freed if the owner is interrupted."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT):
            with contextlib.suppress(OSError):
                os.utime(claim)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        claim.unlink(missing_ok=True)
        raise
    finally:
        over.set()
        thread.join()


def _created(path: Path, content: str) -> bool:
    """Whether this call has created ``path``; nobody else has then."""
    mine = path.with_name(f".new-{uuid.uuid4().hex}")
    mine.write_text(content)
    try:
        path.hardlink_to(mine)  # whole at once, on network file systems too
    except FileExistsError:
        return False
    finally:
        mine.unlink()
    return True
