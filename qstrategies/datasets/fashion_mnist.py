"""Fashion-MNIST: Zalando's articles (arXiv 1708.07747, MIT licence); from a user's folder or
torchvision's download."""

from __future__ import annotations

from qstrategies.datasets import DATASETS
from qstrategies.datasets.idx import IdxDataset


@DATASETS.register("fashion_mnist")
class FashionMNIST(IdxDataset):
    """60 000 training and 10 000 test images of 28 x 28 grey pixels, ten classes."""

    name = "fashion_mnist"
    summary = "articles of clothing, 60 000 / 10 000, from --data-dir or --download"
    light_on_dark = True
    labels = (
        "T-shirt",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    )
    torchvision_class = "FashionMNIST"
    md5 = (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    )
