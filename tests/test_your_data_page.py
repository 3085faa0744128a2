"""What docs/your_data.md shows can be run, in its order."""

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

import qstrategies as qs

PAGE = Path(__file__).parent.parent / "docs" / "your_data.md"
COUNT = 90
Y = np.arange(COUNT) % 3
SHORT = qs.TrainingConfig(epochs=1, batch_size=16)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, 2), nn.Linear(8 * 15 * 15, 3)

    def forward(self, image):
        return self.fc(torch.relu(self.conv(image)).flatten(1))


def write_files(folder, pixels):
    for number, (picture, label) in enumerate(zip(pixels, Y, strict=True)):
        place = folder / "flowers" / f"kind {label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.transpose(1, 2, 0)).save(place / f"{number}.png")
    x = pixels[:, 0]
    np.savez(folder / "digits.npz", x_train=x[:60], y_train=Y[:60], x_test=x[60:], y_test=Y[60:])
    np.save(folder / "x.npy", pixels)
    rows = [f"{number % 7},{number % 5},species {label}" for number, label in enumerate(Y)]
    (folder / "irises.csv").write_text("\n".join(["length,width,species", *rows]))


def test_every_snippet_runs(tmp_path, monkeypatch, registries):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QSTRATEGIES_CACHE", str(tmp_path / "cache"))
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 3, 32, 32), np.uint8)
    write_files(tmp_path, pixels)
    images = torch.from_numpy(pixels).float() / 255
    names = {
        "numpy": np,
        "torch": torch,
        "Net": Net,
        "model": Net().eval(),
        "example": images[:2],
        "waves": np.random.default_rng(1).normal(size=(COUNT, 50)),
        "kinds": Y,
        "your_dataset": TensorDataset(images, torch.from_numpy(Y)),
        "x": pixels,
        "y": Y,
        "sizes": np.linspace(0, 1, COUNT, dtype=np.float32),
        "marks": np.stack([Y == 0, Y == 1], 1).astype(np.float32),
        "x_test": pixels[:9],
        "y_test": Y[:9],
        "config": qs.ExperimentConfig(
            strategy="no_norm",
            training=SHORT,
            tuning=SHORT,
            quantization=qs.QuantizationConfig(calibration_images=32),
            checks="quick",
        ),
    }
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    for snippet in snippets:
        exec(snippet, names)
    assert [record.status for record in names["records"]] == ["done", "done"]
    assert (tmp_path / "runs" / "report.html").is_file()
    assert names["scaled"].splits["test"].images.dtype == torch.uint8
    assert names["normalized"].normalization is not None
    assert {name: len(names["given"].splits[name]) for name in ("train", "validation")} == {
        "train": 72,
        "validation": 18,
    }
    assert names["quantized"].inputs[0].pixels
    assert [names[each].task.metric for each in ("lengths", "tags", "sized")] == [
        "mse",
        "label accuracy",
        "mae",
    ]
