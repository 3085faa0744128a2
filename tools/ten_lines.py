"""Run the lines of README that quantize, export and cross-check a network, with what is installed.

    python ten_lines.py README.md

The network is torchvision's mobilenet_v2 with random weights, or a small one of our own where
torchvision is missing. The file is written to the current folder. Exit code 0 if every executor
gave the same bits.
"""

import importlib.util
import re
import sys
from pathlib import Path

import torch
from torch import nn


def lines(page):
    """The first snippet that exports a network."""
    snippets = re.findall(r"```python\n(.*?)```", page, re.S)
    return next(each for each in snippets if "qs.quantize(" in each and "export_onnx" in each)


def network():
    """A network of images, in evaluation mode."""
    if importlib.util.find_spec("torchvision") is not None:
        from qstrategies.datasets.torchvision_import import torchvision

        return torchvision().models.mobilenet_v2().eval()
    block = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6()]
    return nn.Sequential(*block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)).eval()


def main(path):
    import qstrategies as qs

    torch.manual_seed(0)
    names = {
        "qs": qs,
        "torch": torch,
        "model": network(),
        "calibration_batches": [torch.rand(8, 3, 96, 96)],
        "example_input": torch.rand(2, 3, 96, 96),
        "inputs": torch.rand(4, 3, 96, 96),
    }
    exec(lines(path.read_text()), names)  # noqa: S102 - the page is ours
    checked = qs.cross_check(names["exported"], names["inputs"])
    print(f"{qs.__file__}: {type(names['model']).__name__}, {len(checked.checks)} checks")
    return 0 if all(check.rows_equal == 1 for check in checked.checks) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
