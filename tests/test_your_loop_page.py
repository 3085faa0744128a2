"""What docs/your_loop.md shows can be run, in its order."""

import re
from pathlib import Path

import safetensors.torch
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import qstrategies as qs
from qstrategies.training.trainee import Trainee

FOLDER = Path(__file__).parent.parent
PAGE = (FOLDER / "docs" / "your_loop.md").read_text()


def test_every_snippet_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    images, labels = torch.randn(32, 1, 8, 8), torch.arange(32) % 3
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    names = {
        "torch": torch,
        "safetensors": safetensors,
        "cross_entropy": cross_entropy,
        "model": model.append(nn.Linear(144, 3)),
        "example": images[:2],
        "loader": list(zip(images.split(8), labels.split(8), strict=True)),
        "device": "cpu",
    }
    trained = None
    for snippet in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(snippet, names)
        trained = trained or names["quantized"]
        if "resume" in snippet:
            resumed = names["trainee"]
            assert resumed.steps == 4
            assert torch.equal(resumed.finish().int8()(images), trained.int8()(images))
    loaded = qs.load(tmp_path / "model.safetensors")
    assert torch.equal(loaded.int8()(images), trained.int8()(images))
    assert torch.equal(names["outputs"], trained.module()(names["inputs"]))


def test_the_page_has_the_names_that_there_are():
    public = {name for name in vars(Trainee) if not name.startswith("_")} - {"fold"}
    assert set(re.findall(r"^\| `trainee\.(\w+)`", PAGE, re.M)) == public
    examples = set(re.findall(r"\.\./examples/(\w+)\.py", PAGE))
    assert examples == {path.stem for path in (FOLDER / "examples").glob("*.py")} - {"digits"}
