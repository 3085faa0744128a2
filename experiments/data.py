"""Look at MNIST before training on it: class counts and a grid of samples."""

from common import options

from qstrategies.datasets import DATASETS
from qstrategies.datasets.show import show

print(show(DATASETS.get("mnist")(), options(__doc__).out)[0])
