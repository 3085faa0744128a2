"""The TFLite form: every operator in the real kernels, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import qstrategies as qs
from qstrategies.cli import main
from qstrategies.errors import InputError
from qstrategies.execution.verify import together_text, verify, verify_together
from qstrategies.export.tflite.windows import Window
from qstrategies.runtimes import RUNTIMES, runtimes_for
from qstrategies.runtimes.base import Runtime
from qstrategies.tflite_file import load_tflite, metadata_bytes, schema, sealed

pytest.importorskip("tflite", reason="the package tflite is not installed")

EXECUTORS = runtimes_for(Path("model.tflite"))
INSTALLED = [name for name in EXECUTORS if RUNTIMES.get(name).missing() is None]


class Behind(nn.Module):
    """A convolution, so that channels lie last, then ``function``."""

    def __init__(self, function, channels=4, dimensions=2):
        super().__init__()
        kind = {1: nn.Conv1d, 2: nn.Conv2d}[dimensions]
        self.first = kind(3, channels, 3, padding=1)
        self.function = function

    def forward(self, x):
        return self.function(self.first(x))


def quantized(model, shape=(3, 8, 8), **settings):
    torch.manual_seed(0)
    data = torch.rand(32, *shape)
    return qs.quantize(model.eval(), [data], data[:2], input_scale=1 / 255, **settings)


def steps_apart(model, tmp_path, shape=(3, 8, 8), **settings):
    """The largest distance of each executor's outputs from the specification's."""
    made = quantized(model, shape, **settings)
    file = qs.export_tflite(made, tmp_path / "model.tflite")
    pixels = torch.randint(0, 256, (9, *shape), dtype=torch.uint8)
    checked = qs.cross_check(file, pixels, EXECUTORS)
    found = {check.runtime: check.max_steps for check in checked.checks}
    reasons = {item.runtime: item.reason for item in checked.skipped}
    assert not reasons.keys() & set(INSTALLED), reasons
    return {name: steps for name, steps in found.items() if name in INSTALLED}


MOVING = {
    "flatten": lambda x: x.flatten(1),
    "flatten some": lambda x: x.flatten(2),
    "permute": lambda x: x.permute(0, 2, 1, 3),
    "slice": lambda x: x[:, 1:3, ::2],
    "pad": lambda x: functional.pad(x, (1, 2, 0, 1)),
    "pad with a number": lambda x: functional.pad(x, (1, 2, 0, 1), value=0.3),
    "reflect": lambda x: functional.pad(x, (1, 2, 0, 1), "reflect"),
    "concatenate": lambda x: torch.cat([x, x[:, :2]], 1),
    "stack": lambda x: torch.stack([x, x], 2),
    "upsample": nn.Upsample(scale_factor=3),
    "max pool": nn.MaxPool2d(3, 2, 1),
    "max pool beyond": nn.MaxPool2d(3, 2, ceil_mode=True),
    "global max": nn.AdaptiveMaxPool2d(1),
    "clamp": lambda x: x.clamp(-0.1, 0.2),
    "table": nn.Sigmoid(),
    "hardswish": nn.Hardswish(),
    "maximum": lambda x: torch.maximum(x, x[:, :, :1]),
    "expand": lambda x: x[:, :, :1].expand(-1, -1, 5, -1),
    "shuffle": nn.ChannelShuffle(2),
    "one place": lambda x: x[:, :, 2, 3],
}


LAYERS = {
    "strides and same": nn.Conv2d(4, 6, 3, 2, 1),
    "uneven padding": nn.Conv2d(4, 6, (3, 2), (1, 2), (2, 0)),
    "dilated": nn.Conv2d(4, 6, 3, dilation=2),
    "groups": nn.Conv2d(4, 6, 3, groups=2),
    "depthwise": nn.Conv2d(4, 4, 3, padding=1, groups=4),
    "depthwise, two each": nn.Conv2d(4, 8, 3, 2, groups=4),
    "pointwise": nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU()),
    "linear": nn.Sequential(nn.Flatten(), nn.Linear(256, 7)),
    "linear twice": nn.Sequential(nn.Flatten(), nn.Linear(256, 7), nn.ReLU(), nn.Linear(7, 3)),
    "linear of rows": nn.Linear(8, 5),
    "transposed": nn.ConvTranspose2d(4, 3, 2, 2),
}


SUMS = {
    "a sum": lambda x: x + x[:, :, :1].relu(),
    "a sum before a relu": lambda x: (x + x[:, 1:2].relu()).relu(),
    "a sum far beyond its range": lambda x: (x + x).clamp(-0.001, 0.002),
    "a difference": lambda x: x - x[:, :1],
    "odd means": nn.AvgPool2d(3, 2, 1),
    "even means": nn.AvgPool2d(2),
    "a mean of 64": nn.AdaptiveAvgPool2d(1),
    "a mean of 48": lambda x: functional.adaptive_avg_pool2d(x[:, :, 2:], 1),
}
FIXED = {"fixed_point": True}


@pytest.mark.parametrize("name", {**MOVING, **LAYERS, **SUMS})
def test_fixed_point_integers_give_the_same_bits_in_every_kernel(name, tmp_path):
    net = Behind({**MOVING, **LAYERS, **SUMS}[name])
    found = steps_apart(net, tmp_path, config=qs.QuantizationConfig(**FIXED))
    assert set(found.values()) == {0.0} and len(found) == len(INSTALLED)


@pytest.mark.parametrize(
    "name", ["strides and same", "depthwise", "linear twice", "max pool", "table"]
)
def test_other_integers_do_in_xnnpack_and_elsewhere_but_for_ties(name, tmp_path):
    found = steps_apart(Behind({**MOVING, **LAYERS}[name]), tmp_path)
    assert found["litert-xnnpack"] == 0 and max(found.values()) <= 2


def test_signals_are_images_of_height_one(tmp_path):
    net = nn.Sequential(
        nn.Conv1d(4, 6, 3, 2, 1), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(12, 3)
    )
    config = qs.QuantizationConfig(**FIXED)
    for function in (net, nn.Conv1d(4, 2, 3)):  # the one ends in rows, the other in a signal
        found = steps_apart(Behind(function, dimensions=1), tmp_path, (3, 8), config=config)
        assert set(found.values()) == {0.0}


@pytest.mark.parametrize(
    "settings",
    [
        {"activation_bits": 4},
        {"per_channel": False},
        {"weight_bits": 5, "saturation": "vnni_or_arm"},
        {"weight_bits": 4, "saturation": "vnni_or_arm"},
        {"weight_bits": 4},
        {"weight_bits": 6, "saturation": "vnni_or_arm"},
        {"weight_bits": 3},
        {"weight_bits": 2, "levels": "full"},
        {"weight_bits": 6, "levels": "no_zero"},
        {"saturation": "vnni_or_arm"},
        {"observer": "min_max"},
        {"reduce_range": True},
    ],
    ids=str,
)
def test_whatever_the_settings(settings, tmp_path):
    net = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4))
    config = qs.QuantizationConfig(**FIXED, **settings)
    assert set(steps_apart(Behind(net), tmp_path, config=config).values()) == {0.0}


REFUSED = {
    "a function left in float": (nn.Softmax(1), "stays in float"),
    "a dilated pool": (nn.MaxPool2d(2, dilation=2), "its windows are dilated"),
    "padding by the edge": (nn.ReplicationPad2d(1), "Pad with zeros or by reflection"),
    "a mean of channels": (lambda x: x.mean(1), r"its mean is over the dimensions \(1,\)"),
    "padded output": (nn.ConvTranspose2d(4, 3, 3, 2, 1), "pads its output.*Use Upsample"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_tflite_has_no_operator_for_is_refused_by_name(name, tmp_path):
    function, reason = REFUSED[name]
    made = quantized(Behind(function))
    with pytest.raises(InputError, match=f"has no TFLite form.*{reason}"):
        qs.export_tflite(made, tmp_path / "model.tflite")
    assert not (tmp_path / "model.tflite").exists()


def test_free_scales_and_volumes_are_refused(tmp_path):
    free = quantized(nn.Conv2d(3, 4, 3), config=qs.QuantizationConfig(exact=False))
    with pytest.raises(InputError, match="free scales have no TFLite form"):
        qs.export_tflite(free, tmp_path / "model.tflite")
    volume = quantized(nn.Conv3d(3, 4, 2), (3, 4, 4, 4))
    with pytest.raises(InputError, match="its windows have 3 dimensions"):
        qs.export_tflite(volume, tmp_path / "model.tflite")


def test_the_file_says_whether_it_was_altered(tmp_path):
    path = tmp_path / "model.tflite"
    made = qs.export_tflite(quantized(nn.Conv2d(3, 4, 3)), path, {"note": "ours"})
    file = load_tflite(path)
    assert file.unchanged and made.form == "tflite" and made.size == path.stat().st_size
    assert (
        file.metadata["note"] == "ours" and file.metadata["content_sha256"] == made.content_sha256
    )
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    assert load_tflite(path).unchanged is False


def test_weights_may_look_like_the_place_of_the_hash():
    weights = bytes([48] * 256)
    made = sealed(weights + metadata_bytes({"note": "ours"}) + weights)
    assert made.content.startswith(weights) and made.content.endswith(weights)
    assert made.content.count(made.digest.encode()) == 1


def test_the_same_model_gives_the_same_bytes_saved_and_loaded_too(tmp_path):
    made = quantized(nn.Conv2d(3, 4, 3), config=qs.QuantizationConfig(**FIXED))
    qs.save(made, tmp_path / "m.safetensors")
    models = [made, made, qs.load(tmp_path / "m.safetensors")]
    files = [qs.export_tflite(each, tmp_path / "m.tflite").sha256 for each in models]
    assert len(set(files)) == 1


@pytest.mark.parametrize("cut", [3, 200, 900])
@pytest.mark.parametrize("name", EXECUTORS)
def test_a_broken_file_is_a_clear_error(name, cut, tmp_path):
    if (reason := RUNTIMES.get(name).missing()) is not None:
        pytest.skip(reason)
    path = tmp_path / "model.tflite"
    qs.export_tflite(quantized(nn.Conv2d(3, 4, 3)), path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match="cannot load"):
        RUNTIMES.get(name)(path)


def test_executors_take_files_of_their_suffix_only(tmp_path):
    made = quantized(nn.Conv2d(3, 4, 3))
    files = [
        *qs.export_onnx(made, tmp_path / "m.onnx"),
        qs.export_tflite(made, tmp_path / "m.tflite"),
    ]
    report = qs.cross_check(files, torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    names = {check.file: set() for check in report.checks}
    for check in report.checks:
        names[check.file].add(check.runtime)
    assert names["m.tflite"] <= set(EXECUTORS) and not names["m.onnx"] & set(EXECUTORS)
    assert set(runtimes_for(tmp_path / "m.tflite")) == set(EXECUTORS)


@pytest.mark.parametrize(
    ("size", "after", "window", "mode"),
    [
        (8, 6, (3, 1, 0), 1),
        (8, 8, (3, 1, 1), 0),
        (8, 4, (3, 2, 1), None),  # TFLite would pad behind only
        (7, 4, (3, 2, 1), 0),
        (9, 4, (2, 2, 0), 1),  # what no window reads counts for nothing
        (9, 5, (2, 2, 0), 0),
    ],
)
def test_the_way_to_pad_is_found(size, after, window, mode):
    kernel, stride, padding = window
    found = Window.of((kernel,) * 2, (stride,) * 2, (padding,) * 2)
    assert found.mode((size, size), (after, after)) == mode


def both(tmp_path, **settings):
    """An ONNX and a TFLite file of one model."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    made = quantized(net, config=qs.QuantizationConfig(**settings))
    files = qs.export_onnx(made, tmp_path / "m.onnx"), qs.export_tflite(made, tmp_path / "m.tflite")
    return [files[0][0].path, files[1].path]


def test_verify_compares_both_forms_of_a_model(tmp_path, capfd):
    paths = both(tmp_path, **FIXED)
    report = verify_together(paths[::-1])
    assert report["verdict"] == "same"
    assert [Path(each["file"]).suffix for each in report["files"]] == [".onnx", ".tflite"]
    names = {check["runtime"] for each in report["files"] for check in each["checks"]}
    assert set(INSTALLED) < names and "onnxruntime-all" in names
    assert all(each["unchanged"] for each in report["files"])
    memory = report["files"][1]["memory"]
    flash, alive = paths[1].stat().st_size, 4 * 36 + max(3 * 64, 4 * 36)
    assert memory == {"flash": flash, "activations": alive}
    assert f"on a chip: {flash} bytes of flash, {alive} of" in together_text(report)
    assert "Together: the same bits everywhere" in together_text(report)
    assert main(["verify", *map(str, paths), "--runtime", "litert-xnnpack"]) == 0
    assert "Together: the same bits everywhere" in capfd.readouterr().out


@pytest.mark.skipif("tflite-micro" not in INSTALLED, reason="TensorFlow Lite Micro is missing")
def test_verify_finds_what_rounds_ties_otherwise_and_another_models_file(tmp_path):
    paths = both(tmp_path)
    report = verify(paths[1], runtimes=["litert-xnnpack", "tflite-micro"])
    assert report["apart"] == ["tflite-micro"] and report["verdict"] == "different"
    (tmp_path / "other").mkdir()
    other = both(tmp_path / "other", weight_bits=4)
    assert verify_together([paths[0], other[1]])["verdict"] == "different"


def test_verify_refuses_runtimes_of_other_files(tmp_path):
    paths = both(tmp_path)
    with pytest.raises(InputError, match="'litert-xnnpack' runs only .tflite files: got .onnx"):
        verify(paths[0], runtimes=["litert-xnnpack"])
    with pytest.raises(InputError, match="unknown suffix"):
        verify(tmp_path / "m.txt")


@pytest.mark.parametrize("name", INSTALLED)
def test_each_executor_describes_itself_and_gives_the_logits_of_the_onnx_file(name, tmp_path):
    paths = both(tmp_path, **FIXED)
    kind = RUNTIMES.get(name)
    assert kind.summary and issubclass(kind, Runtime)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), np.uint8)
    logits = kind(paths[1]).run(pixels)
    assert logits.shape == (20, 5) and logits.dtype == np.float32
    np.testing.assert_array_equal(logits, RUNTIMES.get("onnxruntime-all")(paths[0]).run(pixels))


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [3, 2])
def test_weights_of_four_bits_are_packed(bits, per_channel, tmp_path):
    net = nn.Sequential(
        nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Conv2d(5, 5, 3, groups=5), nn.Flatten(), nn.Linear(80, 3)
    )
    config = qs.QuantizationConfig(**FIXED, weight_bits=bits, per_channel=per_channel)
    assert set(steps_apart(Behind(net), tmp_path, config=config).values()) == {0.0}
    file = load_tflite(tmp_path / "model.tflite")
    tensors = [file.graph.Tensors(place) for place in range(file.graph.TensorsLength())]
    weights = {each.Name().decode(): each for each in tensors if b"weight" in each.Name()}
    kinds = schema().TensorType
    narrow = [name for name, each in weights.items() if each.Type() == kinds.INT4]
    assert len(narrow) == 3 and len(weights) == 4, "all but those of the depthwise layer"
    for name in narrow:
        size = int(np.prod(weights[name].ShapeAsNumpy()))
        assert len(file.data(weights[name].Buffer())) == -(-size // 2)


def test_steps_of_results_that_are_finer_than_those_of_sums_leave_nothing_to_round(tmp_path):
    net = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1, groups=4), nn.ReLU6(), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        net[1].weight.mul_(60)
    config = qs.QuantizationConfig(**FIXED, weight_bits=2)
    assert set(steps_apart(Behind(net), tmp_path, config=config).values()) == {0.0}
    layer = quantized(Behind(net), config=config).graph.layers[1]
    steps = layer.bias_scale * layer.rounded_layer.factor / layer.output.grid.scale
    assert steps.max() >= 1, "the case is one"
