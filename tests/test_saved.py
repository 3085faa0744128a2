"""A saved model is the model."""

import json
import subprocess
import sys
from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from safetensors import safe_open
from torch import nn

import qstrategies as qs
from qstrategies.export.forms import write_form
from qstrategies.export.saved import KEY, VERSION

Pair = namedtuple("Pair", "low high")


@dataclass
class Found:
    boxes: torch.Tensor
    rest: object


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.up, self.out = nn.ConvTranspose2d(8, 8, 2, 2), nn.Linear(8, 4)

    def forward(self, x):
        y = nn.functional.hardswish(self.norm(self.conv(x)))
        z = torch.cat([self.up(y)[:, :, ::2, ::2], y], 1)[:, :8] * 0.5
        pooled = nn.functional.avg_pool2d(nn.functional.interpolate(z, scale_factor=2), 3, 2, 1)
        rows = self.out(pooled.mean((2, 3)))
        return Found(rows, {"pair": Pair(rows + 1, None), "list": [pooled.amax((2, 3))]})


def images():
    return torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    quantized = qs.quantize(Net().eval(), [images()], images(), leave_in_float=["up"])
    path = tmp_path_factory.mktemp("saved") / "model.safetensors"
    qs.save(quantized, path)
    return quantized, path


def test_what_is_read_is_what_was_written(saved, tmp_path):
    quantized, path = saved
    loaded = qs.load(path)
    assert (loaded.inputs, loaded.config) == (quantized.inputs, quantized.config)
    ours, theirs = loaded.reference()(images()), quantized.reference()(images())
    assert torch.equal(ours["boxes"], theirs.boxes)
    assert torch.equal(ours["rest"]["pair"]["low"], theirs.rest["pair"].low)
    assert ours["rest"]["pair"]["high"] is None
    assert torch.equal(ours["rest"]["list"][0], theirs.rest["list"][0])
    assert [each.reason for each in loaded.islands] == [each.reason for each in quantized.islands]
    again = tmp_path / "again.safetensors"
    qs.save(loaded, again)
    assert again.read_bytes() == path.read_bytes()
    files = [qs.export_onnx(each, tmp_path / "model.onnx")[0] for each in (quantized, loaded)]
    assert files[0].content_sha256 == files[1].content_sha256


def test_another_process_computes_the_same_bits(cnn, mnist, tmp_path):
    path = tmp_path / "cnn.safetensors"
    batch = mnist["test"].images[:64]
    quantized = qs.quantize(cnn, [batch], batch[:2] / 255, input_scale=1 / 255)
    qs.save(quantized, path)
    script = (
        "import sys, torch, qstrategies as qs; from safetensors.torch import load_file; "
        "model = qs.load(sys.argv[1]); batch = load_file(sys.argv[2])['images']; "
        "print(model.int8()(batch).flatten().tolist() == model.module()(batch).flatten().tolist(), "
        "model.int8()(batch).double().sum().item())"
    )
    from safetensors.torch import save_file

    save_file({"images": batch}, tmp_path / "images.safetensors")
    command = [sys.executable, "-c", script, str(path), str(tmp_path / "images.safetensors")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert printed == ["True", str(quantized.int8()(batch).double().sum().item())]


def test_the_module_stands_in_the_place_of_the_float_model(cnn, mnist):
    batch = mnist["test"].images[:256]
    quantized = qs.quantize(cnn, [batch], batch[:2] / 255, input_scale=1 / 255)
    deployed = quantized.module()
    assert torch.equal(deployed(batch / 255), quantized.int8()(batch))
    agree = deployed(batch / 255).argmax(1) == cnn(batch / 255).argmax(1)
    assert agree.float().mean() > 0.9
    with pytest.raises(qs.InputError, match="input_scale"):
        deployed(batch.float())
    with pytest.raises(qs.InputError, match="got 2 inputs: expected 1"):
        deployed(batch, batch)


def test_no_byte_of_a_file_can_be_changed_without_a_word(saved, tmp_path):
    path, whole = tmp_path / "damaged.safetensors", saved[1].read_bytes()
    step = len(whole) // 200
    for place in [*range(0, 400, 8), *range(400, len(whole), step), len(whole) - 1]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(qs.InputError, match="is no saved model"):
            qs.load(path)
    path.write_bytes(b"")
    with pytest.raises(qs.InputError, match="is empty"):
        qs.load(path)
    for content in (whole[:100], whole[:-1], b"PK", json.dumps({KEY: 1}).encode()):
        path.write_bytes(content)
        with pytest.raises(qs.InputError, match="is no saved model"):
            qs.load(path)
    with pytest.raises(qs.InputError, match="no such file"):
        qs.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("change", ["version", "kind", "input", "list"])
def test_a_file_that_means_something_else_is_refused(saved, tmp_path, change):
    import safetensors.numpy

    from qstrategies.export.saved import _seal

    arrays = safetensors.numpy.load(saved[1].read_bytes())
    with safe_open(saved[1], "np") as file:
        content = json.loads(file.metadata()[KEY].partition(" ")[2])
    node = content["graph"]["nodes"][0]
    if change == "version":
        content["version"] = VERSION + 1
    elif change == "kind":
        node["kind"] = "system"
    elif change == "input":
        node["inputs"] = ["nothing"]
    else:
        node["output"] = []
    text = json.dumps(content)
    path = tmp_path / "other.safetensors"
    path.write_bytes(safetensors.numpy.save(arrays, {KEY: f"{_seal(text, arrays)} {text}"}))
    with pytest.raises(qs.InputError, match="is no saved model"):
        qs.load(path)


def test_a_run_keeps_its_model_for_pytorch(tmp_path):
    quantized = qs.quantize(Net().eval(), [images()], images())
    file = write_form("safetensors", quantized, tmp_path / "model.onnx")
    assert file.path == tmp_path / "model.safetensors" and file.size == file.path.stat().st_size
    expected, found = (each.int8()(images()) for each in (quantized, qs.load(file.path)))
    assert torch.equal(expected.boxes, found["boxes"])
