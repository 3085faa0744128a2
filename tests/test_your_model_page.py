"""What docs/your_model.md shows can be run, in its order."""

import re
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import qstrategies as qs
from qstrategies.cli import main
from qstrategies.experiment.checks import QUICK_LEFT_OUT
from qstrategies.runtimes import RUNTIMES

PAGE = (Path(__file__).parent.parent / "docs" / "your_model.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"```\n(qstrategies .*?)\n```", PAGE)
NETS = """\
from torch import nn
class Net(nn.Sequential):
    def __init__(self, classes):
        super().__init__(nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(512, classes))
"""
SHORT = ["--epochs", "1", "--tune-epochs", "1", "--calibration-images", "64", "--quiet"]


def write_onnx(folder, model):
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    nodes = [
        helper.make_node("Conv", ["x", "0.weight", "0.bias"], ["a"], strides=[4, 4]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("Gemm", ["c", "3.weight", "3.bias"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), folder / "float.onnx")


def write_files(folder):
    pixels = np.random.default_rng(0).integers(0, 256, (120, 32, 32, 3), np.uint8)
    for number, picture in enumerate(pixels):
        place = folder / "flowers" / f"kind {number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / f"{number}.png")
    (folder / "my_nets.py").write_text(NETS)
    (folder / "my_things.py").write_text(SNIPPETS[0])


def test_every_snippet_and_command_runs(tmp_path, monkeypatch, registries, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QSTRATEGIES_CACHE", str(tmp_path / "cache"))
    sys.path.insert(0, str(tmp_path))
    for name in QUICK_LEFT_OUT:
        del RUNTIMES._items[name]
    write_files(tmp_path)
    assert len([line for line in SNIPPETS[0].splitlines() if line.strip()]) <= 10
    from my_nets import Net

    torch.manual_seed(0)
    model = Net(3).eval()
    save_file(model.state_dict(), "net.safetensors")
    write_onnx(tmp_path, model)
    first, second, third = (command.split()[1:] for command in COMMANDS)
    assert main([*first, "--bits", "8", *SHORT]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("no_norm", "cle+mse_clip+adaround", "finetune", "qat"))
    assert Path("runs/report.html").is_file()
    second = ["run", "no_norm", *second[1:]]
    assert main([*second, "--out", "other", "--weight-bits", "4", *SHORT]) == 0
    run = next(Path("other").glob("no_norm*"))
    Image.open("flowers/kind 0/0.png").save("photo.jpg")
    np.save("signals.npy", np.zeros((2, 3, 32, 32), np.uint8))
    third[1] = str(run / "model.onnx")
    assert main(third, limited=True) == 0 and "signals.npy[1]: kind" in capsys.readouterr().out
    names = {
        "qs": qs,
        "model": model,
        "batches": [torch.rand(16, 3, 32, 32)],
        "flowers": lambda: qs.datasets.image_folder("flowers", size=32),
        "config": qs.ExperimentConfig(
            strategy="no_norm",
            tuning=qs.TrainingConfig(epochs=1, batch_size=16),
            quantization=qs.QuantizationConfig(calibration_images=64),
        ),
    }
    for snippet in SNIPPETS[1:]:
        if "pt2e" not in snippet:
            exec(snippet, names)


def test_the_snippet_of_pt2e_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torchao", reason="not installed: pip install 'qstrategies[pt2e]'")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(512, 3)
    batches = [torch.rand(16, 3, 32, 32)]
    names = {"qs": qs, "torch": torch, "model": nn.Sequential(*layers), "batches": batches}
    (snippet,) = (each for each in SNIPPETS if "pt2e" in each)
    exec(snippet, names)
    assert qs.certify(tmp_path / "converted.onnx").complete
    assert float(capsys.readouterr().out.split()[0]) > 30
