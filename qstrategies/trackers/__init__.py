"""Tools that follow trainings from outside, one file each."""

from __future__ import annotations

from pathlib import Path

from qstrategies.errors import InputError
from qstrategies.registry import Registry
from qstrategies.trackers.base import Tracker

TRACKERS: Registry[type[Tracker]] = Registry("tracker", __name__)
register = TRACKERS.register


def open_tracker(name: str, folder: Path) -> Tracker:
    """The tracker ``name``, writing below ``folder``; raises ``InputError`` for an unknown or
    missing one."""
    kind = TRACKERS.get(name)
    reason = kind.missing()
    if reason is not None:
        raise InputError(f"tracker {name!r} is {reason}")
    return kind(folder)
