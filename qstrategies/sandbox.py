"""A command that reads a file from anywhere runs in a process of its own, with limits on its time
and memory."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from qstrategies.errors import InputError

_CHILD = """\
import sys
from qstrategies.sandbox import limit
limit(int(sys.argv[1]))
from qstrategies.cli import main
sys.exit(main(sys.argv[2:], limited=True))
"""


def run_limited(arguments: Sequence[str], subject: Path, seconds: int) -> int:
    """The exit code of ``qstrategies ARGUMENTS`` in a child process that gets ``seconds`` of CPU
    time and half of the memory.

    Raises ``InputError`` about ``subject`` if the child needs more or crashes.
    """
    package = str(Path(__file__).parent.parent)
    paths = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [
        sys.executable,
        "-P",
        "-c",
        _CHILD,
        str(seconds),
        *arguments,
    ]  # -P: nothing is imported from the current folder
    code = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, check=False).returncode
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        raise InputError(
            f"{str(subject)!r} needs more than {seconds} s of CPU time, or more than half "
            "of the memory"
        )
    if code < 0:
        raise InputError(
            f"{str(subject)!r} makes a runtime crash ({signal.Signals(-code).name}): "
            "it is damaged or hostile, leave it"
        )
    return code


def limit(seconds: int) -> None:
    """Limit this process: CPU time, memory, no core files; Ctrl-C ends it silently, its parent says
    so."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    for kind, soft, hard in (
        (resource.RLIMIT_CPU, seconds, seconds + 5),
        (resource.RLIMIT_DATA, memory, memory),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        _, most = resource.getrlimit(kind)
        bounds = (
            (soft, hard) if most == resource.RLIM_INFINITY else (min(soft, most), min(hard, most))
        )
        resource.setrlimit(kind, bounds)
