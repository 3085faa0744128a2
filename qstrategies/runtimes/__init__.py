"""Executors of exported files, one file each."""

from __future__ import annotations

from pathlib import Path

from qstrategies.registry import Registry
from qstrategies.runtimes.base import Runtime

RUNTIMES: Registry[type[Runtime]] = Registry("runtime", __name__)
register = RUNTIMES.register


def runtimes_for(path: Path) -> list[str]:
    """The names of those that take files with the suffix of ``path``."""
    return [name for name in RUNTIMES.names() if RUNTIMES.get(name).suffix == path.suffix]
