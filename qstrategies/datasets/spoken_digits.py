"""Spoken digits: the Free Spoken Digit Dataset of Z. Jackson and others
(https://doi.org/10.5281/zenodo.1342401, CC BY-SA 4.0), shipped in the package as features.

``experiments/speech_features.py`` made them, and says how: mel-frequency cepstral coefficients, 10
of each of 49 windows of one second.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qstrategies.datasets import DATASETS
from qstrategies.datasets.idx import IdxDataset
from qstrategies.datasets.split import Split

if TYPE_CHECKING:
    from torch import Tensor


@DATASETS.register("spoken_digits")
class SpokenDigits(IdxDataset):
    """3 000 recordings of ten digits by six speakers, 49 x 10 coefficients in 8 bits.

    Each speaker is in one split only, so that the test asks for voices never heard.
    """

    name = "spoken_digits"
    summary = "spoken digits as 49 x 10 MFCC, 2 000 / 500, of another speaker in the test"
    labels = tuple("0123456789")
    files = ("features-idx3-ubyte", "digits-idx1-ubyte", "speakers-idx1-ubyte")
    packaged = Path(__file__).parent / "data" / "spoken_digits"
    md5 = (
        "70c9cfe1e0643812fe1dc0c6cadf4f04",
        "7786c2d385104bf7a7c57776120a3c35",
        "3af67182a8d9cac970b8086bda69dd9d",
    )
    speakers: dict[str, tuple[int, ...]] = {
        "train": (0, 1, 2, 3),
        "validation": (4,),
        "test": (5,),
    }

    def cut(self, tensors: Sequence[Tensor]) -> dict[str, Split]:
        """The splits of ``speakers``."""
        import torch

        features, digits, voices = tensors
        parts = {}
        for name, chosen in self.speakers.items():
            part = torch.isin(voices, torch.tensor(chosen))
            parts[name] = Split(name, features[part].unsqueeze(1), digits[part].long())
        return parts
