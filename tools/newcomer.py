"""Walk the way of somebody who has README, an empty folder and an empty environment.

    python tools/newcomer.py [WHEEL]

Nothing of this checkout is seen but a clone of its last commit, and nothing of the environment but
how the package index is reached. The network of README's lines has random weights. With WHEEL these
lines also run with that package in place of what README installs. Exit code 1 says at which words
of README the newcomer got stuck.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
INDEX = re.compile(r"PIP_\w+|SSL_CERT_\w+|\w+_PROXY", re.IGNORECASE)
"""Variables that say how the machine reaches the package index."""

BEFORE = """
import torch
from qstrategies.datasets.torchvision_import import torchvision

torch.manual_seed(0)
model = torchvision().models.mobilenet_v2().eval()
calibration_batches = [torch.rand(8, 3, 224, 224)]
example_input = torch.rand(2, 3, 224, 224)
inputs = torch.rand(16, 3, 224, 224)
"""


class StuckError(Exception):
    """Words of README that did not come true, and why."""


def shown(page, word):
    """The first block of ``page`` that has ``word``."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page, re.M | re.S)
    return next(each for each in blocks if word in each)


def check_output(expected, printed):
    """``printed`` must be ``expected``, where "..." stands for anything, and have no executor whose
    bits are others."""
    pattern = ".*".join(re.escape(part) for part in expected.split("..."))
    if re.fullmatch(pattern, printed, re.S) is None:
        raise StuckError(f"{expected}\nIt printed:\n\n{printed}")
    rows = re.findall(r"^(\S+) +\S+ +\d+ +(\S+)% +(\S+)$", printed, re.M)
    others = [name for name, equal, steps in rows if (equal, steps) != ("100.00", "0")]
    if others:
        raise StuckError(f"{expected}\nOther bits in {', '.join(others)}:\n\n{printed}")


class Newcomer:
    """Somebody at work in ``folder``, who reads README of ``clone``."""

    def __init__(self, folder):
        self.clone, self.desk, environment = (folder / each for each in ("clone", "desk", "venv"))
        self.desk.mkdir()
        self.variables = {name: os.environ[name] for name in os.environ if INDEX.fullmatch(name)}
        self.variables |= {"HOME": str(folder), "PATH": f"{environment / 'bin'}:/usr/bin:/bin"}
        start = "from a fresh clone"
        self.does(start, f"git clone --quiet --depth 1 file://{CHECKOUT} {self.clone}", folder)
        self.page = (self.clone / "README.md").read_text()
        self.does(start, f"{sys.executable} -m venv {environment}", folder)

    def does(self, words, command, place):
        """What ``command`` prints in the folder ``place``; ``words`` of README promise that it
        works."""
        print(f"{words.strip().splitlines()[0]}: {command}", flush=True)
        call = ["bash", "-c", command]
        done = subprocess.run(call, cwd=place, env=self.variables, capture_output=True, text=True)
        if done.returncode:
            raise StuckError(f"{words}\n`{command}` said:\n\n{done.stdout}{done.stderr}")
        return done.stdout

    def installs(self):
        install = re.search(r"`(pip install [^`]+)`\s+brings the command", self.page)[1]
        self.does(install, install, self.clone)
        self.does("brings the command `qstrategies`", "qstrategies --version", self.desk)

    def quantizes(self):
        lines = shown(self.page, "qs.quantize(")
        (self.desk / "mine.py").write_text(BEFORE + lines)
        printed = self.does(lines, "python mine.py", self.desk)
        check_output(shown(self.page, "QuantizedModel("), printed)
        exported = re.search(r'export_onnx\(quantized, "(\S+)"\)', lines)[1]
        self.does("**the same bits** on every runtime", f"qstrategies verify {exported}", self.desk)


def main(wheels):
    try:
        with tempfile.TemporaryDirectory() as folder:
            newcomer = Newcomer(Path(folder))
            newcomer.installs()
            newcomer.quantizes()
            for wheel in wheels:
                install = "pip install --no-deps --force-reinstall"
                newcomer.does("brings", f"{install} {Path(wheel).resolve()}", newcomer.desk)
                newcomer.quantizes()
    except StuckError as error:
        print(f"The newcomer got stuck at README's: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
