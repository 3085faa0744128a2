"""What schedulers cost: ten thousand stages that do nothing, and a real comparison with one job and
with two.

python experiments/scheduling.py [--runs 10000] [--schedulers in_process folder ...] [--out FILE]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from qstrategies.cli import guarded
from qstrategies.experiment import environment
from qstrategies.experiment.comparison import plan
from qstrategies.experiment.tasks import tasks_of
from qstrategies.files import atomic_write
from qstrategies.records import ExperimentConfig
from qstrategies.schedulers import SCHEDULERS
from qstrategies.schedulers.base import Outcome, Resources, Task

STRATEGIES = ("no_norm", "clamp", "finetune", "qat", "cle")
HEAD = """# What schedulers cost

Written by `python experiments/scheduling.py` on {cpu}.

Stages that do nothing: seconds from the first submitted to the last outcome, of plans of {small}
and of {large} runs with their trainings, and how much longer each stage takes in the large one.

| scheduler | stages | seconds | stages | seconds | per stage, large / small |
| --- | ---: | ---: | ---: | ---: | ---: |
"""
REAL = """
A comparison of {strategies} at 8 and 4 bits over two seeds on MNIST, one core a stage: {one:.0f} s
with one job, {two:.0f} s with two, {ratio:.2f} times as fast.
"""


def nothing(task: Task, _: Sequence[Outcome]) -> Outcome:
    """No work at all."""
    return Outcome(task.name)


def tasks(runs: int) -> list[Task]:
    """The stages of ``runs`` runs."""
    base = ExperimentConfig(strategy="no_norm")
    seeds = range(-(-runs // (2 * len(STRATEGIES))))
    return tasks_of(plan(base, STRATEGIES, [8, 4], seeds)[:runs])


def seconds(name: str, stages: Sequence[Task]) -> float:
    """Of all ``stages``, by the scheduler ``name``, two at a time."""
    with tempfile.TemporaryDirectory() as folder:
        resources = Resources(2, 1, Path(folder), environment.here())
        started = time.perf_counter()
        scheduler = SCHEDULERS.get(name)(nothing, resources)
        for stage in stages:
            scheduler.submit(stage)
        count = sum(1 for _ in scheduler.wait())
        assert count == len(stages)
        return time.perf_counter() - started


def row(name: str, small: Sequence[Task], large: Sequence[Task]) -> str:
    """Of the table."""
    first, second = seconds(name, small), seconds(name, large)
    growth = (second / len(large)) / (first / len(small))
    return f"| {name} | {len(small)} | {first:.1f} | {len(large)} | {second:.1f} | {growth:.2f} |"


def real(jobs: int) -> float:
    """Seconds of a comparison with ``jobs`` processes of one core."""
    command = [sys.executable, "-m", "qstrategies", "compare", "no_norm", "qat", "--seeds", "2"]
    command += ["--bits", "8,4", "--epochs", "1", "--threads", "1", "--jobs", str(jobs), "--quiet"]
    command += ["--scheduler", "processes"]  # which keeps all libraries to one core a job
    with tempfile.TemporaryDirectory() as folder:
        environ = {**os.environ, "OMP_NUM_THREADS": "1"}
        started = time.perf_counter()
        out = subprocess.DEVNULL
        subprocess.run([*command, "--out", folder], check=True, stdout=out, env=environ)
        return time.perf_counter() - started


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10_000, help="of the large plan")
    parser.add_argument(
        "--schedulers", nargs="+", default=["in_process", "processes", "folder"], help="by name"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/scheduling.md"))
    chosen = parser.parse_args()
    small, large = tasks(max(10, chosen.runs // 10)), tasks(chosen.runs)
    runs = [sum(task.stage == "run" for task in each) for each in (small, large)]
    text = HEAD.format(cpu=environment.describe()["cpu"], small=runs[0], large=runs[1])
    for name in chosen.schedulers:
        text += row(name, small, large) + "\n"
        print(text.splitlines()[-1], flush=True)
    one, two = real(1), real(2)
    text += REAL.format(strategies="no_norm and qat", one=one, two=two, ratio=one / two)
    atomic_write(chosen.out, text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
