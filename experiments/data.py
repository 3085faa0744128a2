"""Look at MNIST before training on it: class counts and a grid of samples."""

import sys

from common import options

from qstrategies.cli import guarded
from qstrategies.datasets import DATASETS
from qstrategies.datasets.show import show


def run() -> int:
    print(show(DATASETS.get("mnist")(), options(__doc__).out)[0])
    return 0


sys.exit(guarded(run))
