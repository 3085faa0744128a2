"""Any input that a model takes, through its file."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import qstrategies as qs
from qstrategies.cli import main
from qstrategies.errors import InputError
from qstrategies.execution.predict import predict
from qstrategies.runtimes.onnx_runtime import OnnxRuntime

LABELS = ["cat", "dog", "owl"]


def saved(tmp_path, model, example, *, scale=None, labels=LABELS, metric=None):
    torch.manual_seed(0)
    batch = example if isinstance(example, tuple) else (example,)
    quantized = qs.quantize(model.eval(), [example], example, input_scale=scale)
    entry = quantized.inputs[0]
    metadata = {"labels": labels} if labels else {}
    metadata |= {"metric": metric} if metric else {}
    if scale is None and entry.scale is not None:
        metadata |= {"input_scale": entry.scale, "input_zero_point": entry.zero_point}
    path = tmp_path / "model.onnx"
    qs.export_onnx(quantized, path, metadata)
    return path, [tensor.numpy() for tensor in batch]


def classifier(channels):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 48, 3))


@pytest.fixture
def colour(tmp_path):
    return saved(tmp_path, classifier(3), torch.rand(4, 3, 10, 8), scale=1 / 255)[0]


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 10, 8), np.uint8)
    Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png", pixels


def test_pictures_in_colour_and_arrays_of_pixels(colour, photo, tmp_path):
    path, pixels = photo
    np.save(tmp_path / "one.npy", pixels)
    np.save(tmp_path / "two.npy", np.stack([pixels, 255 - pixels]))
    results = predict(colour, [path, tmp_path / "one.npy", tmp_path / "two.npy"])
    expected = OnnxRuntime(colour).run(np.stack([pixels, pixels, pixels, 255 - pixels]))
    assert [result["label"] for result in results] == [LABELS[i] for i in expected.argmax(1)]
    assert [result["logit"] for result in results] == expected.max(1).tolist()
    names = [str(path), str(tmp_path / "one.npy"), *(f"{tmp_path}/two.npy[{i}]" for i in (0, 1))]
    assert [result["image"] for result in results] == names


def test_signals_of_real_values_are_quantized_as_the_file_says(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14, 3))
    path, (signals,) = saved(tmp_path, model, torch.randn(8, 2, 16))
    np.save(tmp_path / "signals.npy", signals)
    np.save(tmp_path / "double.npy", signals.astype(np.float64))
    results = predict(path, [tmp_path / "signals.npy"])
    floats = model(torch.from_numpy(signals)).argmax(1).tolist()
    assert len(results) == 8 and [LABELS.index(each["label"]) for each in results] == floats
    again = predict(path, [tmp_path / "double.npy"])
    assert [each["logit"] for each in again] == [each["logit"] for each in results]


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, left, right):
        return self.a(left) + self.b(right)


def test_several_inputs_come_by_name(tmp_path):
    path, (left, right) = saved(
        tmp_path, Two(), (torch.rand(5, 4), torch.rand(5, 2)), scale=1 / 255
    )
    names = list(OnnxRuntime(path).dtypes)
    pixels = [np.round(each * 255).astype(np.uint8) for each in (left, right)]
    np.savez(tmp_path / "both.npz", **dict(zip(names, pixels, strict=True)))
    expected = OnnxRuntime(path).run(*pixels)
    found = predict(path, [tmp_path / "both.npz"])
    assert [each["logit"] for each in found] == expected.max(1).tolist()
    np.savez(tmp_path / "one.npz", **{names[0]: pixels[0]})
    for name in ("one.npz", "both.npy"):
        np.save(tmp_path / "both.npy", pixels[0])
        with pytest.raises(InputError, match=rf"expected a .npz file with {names[0]} \[4\] and "):
            predict(path, [tmp_path / name])


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ((nn.Linear(12, 1),), {"labels": None}),
        ((nn.Linear(12, 3),), {"metric": "label accuracy"}),
        ((nn.Linear(12, 18), nn.Unflatten(1, (2, 9))), {"metric": "pixel accuracy"}),
    ],
)
def test_what_is_no_choice_between_classes_is_given_as_it_is(head, told, tmp_path, capsys):
    model = nn.Sequential(nn.Flatten(), *head)
    path, _ = saved(tmp_path, model, torch.rand(4, 3, 2, 2), scale=1 / 255, **told)
    np.save(tmp_path / "x.npy", np.zeros((3, 2, 2), np.uint8))
    (result,) = predict(path, [tmp_path / "x.npy"])
    expected = OnnxRuntime(path).run(np.zeros((1, 3, 2, 2), np.uint8))
    assert result == {"image": str(tmp_path / "x.npy"), "outputs": expected[0].tolist()}
    assert main(["predict", str(path), str(tmp_path / "x.npy")], limited=True) == 0
    printed = capsys.readouterr().out.removeprefix(f"{tmp_path}/x.npy: ")
    np.testing.assert_allclose(json.loads(printed), expected[0], rtol=1e-5)  # of six digits
    assert main(["predict", str(path), str(tmp_path / "x.npy"), "--json"], limited=True) == 0
    assert json.loads(capsys.readouterr().out) == [result]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 8, 10), np.uint8), r"\[3, 8, 10\]: expected \[3, 10, 8\] or \[N, 3, 10, 8\]"),
        (np.zeros((3, 10, 8), np.float32), "float32: expected pixels, whole numbers from 0"),
        (np.full((3, 10, 8), 256), "256: expected pixels, whole numbers from 0 to 255"),
        (np.array(["a"]), "it holds <U1: expected numbers"),
        (np.array([{}]), "is no array: Object arrays cannot be loaded"),
        (np.zeros((0, 3, 10, 8), np.uint8), "it is empty"),
    ],
)
def test_arrays_that_do_not_fit_are_named(colour, tmp_path, array, message):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(InputError, match=message):
        predict(colour, [tmp_path / "x.npy"])


def test_pictures_for_a_file_that_takes_none_are_refused(tmp_path, photo):
    model = nn.Sequential(nn.Linear(4, 3))
    path, _ = saved(tmp_path, model, torch.randn(4, 4))
    with pytest.raises(InputError, match=r"takes no pictures but \[4\]: give .npy files"):
        predict(path, [photo[0]])
