"""MNIST: handwritten digits of Y. LeCun, C. Cortes and C. J. C. Burges (CC BY-SA 3.0), shipped in
the package."""

from __future__ import annotations

from pathlib import Path

from qstrategies.datasets import DATASETS
from qstrategies.datasets.idx import IdxDataset


@DATASETS.register("mnist")
class MNIST(IdxDataset):
    """60 000 training and 10 000 test images of 28 x 28 grey pixels, ten classes."""

    name = "mnist"
    summary = "handwritten digits, 60 000 / 10 000, in the package"
    light_on_dark = True
    labels = tuple("0123456789")
    torchvision_class = "MNIST"
    packaged = Path(__file__).parent / "data" / "mnist"
    md5 = (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    )
