"""What schedulers cost: thousands of stages that do nothing, stages that sleep, ten thousand runs
that are made up, and a real comparison with one job and with two.

python experiments/scheduling.py [--runs 10000] [--schedulers in_process folder ...] [--out FILE]

The last takes ten minutes and wants two idle cores. The scheduler ray needs a cluster at
$RAY_ADDRESS; docs/your_cores.md says how to start one.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import simulated
from simulated import nothing, planned, rested

from qstrategies.cli import guarded
from qstrategies.experiment import environment
from qstrategies.experiment.tasks import tasks_of
from qstrategies.files import atomic_write
from qstrategies.schedulers import SCHEDULERS
from qstrategies.schedulers.base import Perform, Resources, Task

SLEEPING = 60
ONE_BY_ONE = ("in_process", "folder")
"""These compute one stage at a time, the second one beside workers elsewhere."""
HEAD = """# What schedulers cost

Written by `python experiments/scheduling.py` on {cpu}.

Stages that do nothing: seconds from the first submitted to the last outcome, of plans of {small}
and of {large} runs with their trainings, and how much longer each stage takes in the large one.

| scheduler | stages | seconds | stages | seconds | per stage, large / small |
| --- | ---: | ---: | ---: | ---: | ---: |
"""
SLEEP = """
{stages} stages that sleep one second, two at a time: seconds beyond the {half} that they take, in
which processes start and import PyTorch; Ray's had done so before.

| scheduler | seconds |
| --- | ---: |
"""
SIMULATED = """
Runs whose results are made up, five strategies at two widths: seconds until they are planned, found
finished, read, concluded from and reported.

"""
REAL = """
A comparison of no_norm and qat at 8 and 4 bits over four seeds on MNIST, one core a stage:
{one:.0f} s with one job, {two:.0f} s with two, {ratio:.2f} times as fast. Two such comparisons
beside each other, which share nothing but the machine, are {ceiling:.2f} times as fast as one after
the other.
"""


def seconds(name: str, stages: Sequence[Task], perform: Perform = nothing) -> float:
    """Of all ``stages``, by the scheduler ``name``, two at a time."""
    with tempfile.TemporaryDirectory() as folder:
        resources = Resources(2, 1, Path(folder), environment.here())
        started = time.perf_counter()
        scheduler = SCHEDULERS.get(name)(perform, resources)
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


def sleeping_row(name: str, stages: Sequence[Task]) -> str:
    """Of the table of stages that sleep."""
    return f"| {name} | {seconds(name, stages, rested) - len(stages) / 2:.1f} |"


def comparison(jobs: int, folder: str) -> subprocess.Popen[bytes]:
    """One that has begun, with ``jobs`` processes of one core."""
    command = [sys.executable, "-m", "qstrategies", "compare", "no_norm", "qat", "--seeds", "4"]
    command += ["--bits", "8,4", "--epochs", "1", "--threads", "1", "--jobs", str(jobs), "--quiet"]
    command += ["--scheduler", "processes"]  # which keeps all libraries to one core a job
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, "--out", folder], stdout=subprocess.DEVNULL, env=environ)


def real(jobs: Sequence[int]) -> float:
    """Seconds of comparisons beside each other, each with so many ``jobs`` on cores of its own."""
    cores = sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, set(cores))
        started = time.perf_counter()
        running = []
        for count in jobs:
            os.sched_setaffinity(0, cores[:count])  # which a process begins with
            running.append(comparison(count, stack.enter_context(tempfile.TemporaryDirectory())))
            cores = cores[count:]
        codes = [each.wait() for each in running]
        assert not any(codes), codes
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
    counts = [max(10, chosen.runs // 10), chosen.runs]
    small, large = (tasks_of(planned(count)) for count in counts)
    text = HEAD.format(cpu=environment.describe()["cpu"], small=counts[0], large=counts[1])
    text += "".join(f"{row(name, small, large)}\n" for name in chosen.schedulers)
    floats = [task for task in large if not task.parents][:SLEEPING]
    text += SLEEP.format(stages=len(floats), half=len(floats) // 2)
    at_once = [name for name in chosen.schedulers if name not in ONE_BY_ONE]
    text += "".join(f"{sleeping_row(name, floats)}\n" for name in at_once)
    text += SIMULATED + simulated.table(counts)
    one, two, beside = real([1]), real([2]), real([1, 1])
    text += REAL.format(one=one, two=two, ratio=one / two, ceiling=2 * one / beside)
    atomic_write(chosen.out, text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
