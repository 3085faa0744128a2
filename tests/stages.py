"""What the tests of schedulers compute in processes: a module of its own, since each process imports
it, and torch would be most of its time."""

import os
import signal
import time

from qstrategies.schedulers.base import Outcome


def noted(place, each, parents):
    """Leave a file that says who was there before; a task may die once, always, or fail."""
    (place / f"{each.name}-{os.getpid()}-{time.monotonic_ns()}").write_text(
        " ".join(sorted(parent.name for parent in parents))
    )
    tries = len(list(place.glob(f"{each.name}-*")))
    if each.name == "dies" or (each.name == "stumbles" and tries == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    failed = next((parent.reason for parent in parents if parent.reason), None)
    return Outcome(each.name, reason="on purpose" if each.name == "fails" else failed)


def cores_of(each, _):
    return Outcome(each.name, reason=" ".join(map(str, os.sched_getaffinity(0))))


def endless(each, _):
    time.sleep(600 * (each.name == "slow"))
    return Outcome(each.name)
