"""How stages are computed, as options; and the command ``work``, which computes those of others."""

from __future__ import annotations

import argparse
from typing import Any

from qstrategies.cli.location import add_location, location
from qstrategies.cli.output import show
from qstrategies.cli.values import folder, whole
from qstrategies.errors import InputError


def add_scheduling(sub: argparse.ArgumentParser) -> None:
    """How many stages are computed at a time, with what, and where."""
    group = sub.add_argument_group("computing")
    group.add_argument(
        "--jobs", type=whole(1, 1024), default=1, help="stages at a time (default: 1)"
    )
    _add_threads(group)
    group.add_argument(
        "--scheduler",
        default="in_process",
        help="what computes them: a name from `qstrategies list` (default: processes of this "
        "machine where there are several jobs; folder: with `qstrategies work`; ray: on a cluster)",
    )


def _add_threads(group: Any) -> None:
    group.add_argument(
        "--threads",
        type=whole(1, 1024),
        help="of each stage (default: as many as cores are left to it); the bits of a training "
        "depend on them",
    )


def scheduling_of(options: argparse.Namespace) -> dict[str, Any]:
    """What ``run_all`` takes. Raises ``InputError`` for an unknown scheduler."""
    from qstrategies.schedulers import SCHEDULERS

    SCHEDULERS.get(options.scheduler)
    _set_threads(options.threads)
    return {"scheduler": options.scheduler, "jobs": options.jobs, "threads": options.threads}


def take_worker_threads(options: argparse.Namespace) -> None:
    """Let this process have as many threads as each that would compute the stages."""
    from qstrategies.experiment.computing import resources_of, scheduler_for

    scheduling_of(options)
    chosen = scheduler_for(options.scheduler, options.jobs)
    resources = resources_of(chosen, options.jobs, options.threads, options.out)
    _set_threads(resources.threads)


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def add_work(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "out", metavar="RUNS", type=folder, help="what `compare --scheduler folder --out` names"
    )
    _add_threads(sub)
    add_location(sub)
    sub.add_argument("--quiet", action="store_true", help="no progress")


def work(options: argparse.Namespace) -> int:
    from qstrategies.experiment.computing import join
    from qstrategies.experiment.workspace import Workspace
    from qstrategies.progress import Progress
    from qstrategies.training.hardware import keep_freed_memory

    if not options.out.is_dir():
        raise InputError(f"{str(options.out)!r} is no folder: expected what --out of compare names")
    keep_freed_memory()
    _set_threads(options.threads)
    progress = Progress(quiet=options.quiet)
    try:
        finished, left = join(Workspace(options.out, location(options), progress))
    finally:
        progress.close()
    show(f"{finished} stages are finished" + (f", {left} are for other machines" if left else ""))
    return 0
