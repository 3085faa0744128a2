"""How networks that engineers bring are called: what they take and return, in which numbers, what
calibrates them, and what is none."""

import dataclasses
import math

import pytest
import torch
from everywhere import SHAPE, Between, check, decibels, images, outputs_of_file, refused
from torch import nn
from torch.nn import functional as F

import qstrategies as qs


class Returns(nn.Module):
    """Two tensors in the container that ``pack`` makes."""

    def __init__(self, pack):
        super().__init__()
        self.conv, self.pack = nn.Conv2d(3, 8, 3), pack

    def forward(self, x):
        y = self.conv(x)
        return self.pack(y, F.max_pool2d(y, 2))


@dataclasses.dataclass
class Pair:
    fine: torch.Tensor
    coarse: torch.Tensor


PACKS = {
    "tuple": lambda a, b: (a, b),
    "list": lambda a, b: [a, b],
    "dict": lambda a, b: {"fine": a, "coarse": b},
    "nested": lambda a, b: {"maps": [a, (b,)]},
    "dataclass": Pair,
    "twice the same": lambda a, b: (a, a),
}


@pytest.mark.parametrize("name", PACKS)
def test_what_a_model_returns_keeps_its_form(name, tmp_path):
    torch.manual_seed(0)
    model = Returns(PACKS[name])
    quantized, exported = check(model, tmp_path)
    assert type(quantized.int8()(images())) is type(model(images()))
    report = qs.cross_check(
        exported,
        images(),
        ["onnxruntime-all", "numpy-integer", "onnx-reference", "tract", "opencv-dnn"],
    )
    assert report.same and {check.runtime for check in report.checks} >= {
        "onnxruntime-all",
        "numpy-integer",
    }


class Takes(nn.Module):
    """An argument named like our output, and an optional one."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, logits, mask=None, scale=2):
        y = self.conv(logits) * scale
        return y if mask is None else y * mask


def test_optional_arguments_and_arguments_named_like_outputs(tmp_path):
    torch.manual_seed(0)
    check(Takes(), tmp_path)
    check(Takes(), tmp_path, (images(), images(shape=(1, 12, 12), seed=1)))


class TakesMore(nn.Module):
    """Any number of arguments."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, first, *others):
        for other in others:
            first = first + other
        return self.conv(first)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_arguments(count, tmp_path):
    torch.manual_seed(0)
    check(TakesMore(), tmp_path, tuple(images(seed=number) for number in range(count)))


def test_examples_by_name(tmp_path):
    torch.manual_seed(0)
    model, example = Takes().eval(), {"logits": images(), "mask": images(shape=(1, 12, 12), seed=1)}
    quantized = qs.quantize(model, [example], example)
    assert [spec.name for spec in quantized.inputs] == ["logits", "mask"]
    module, expected = quantized.module(), quantized.module()(*example.values())
    assert decibels(model(**example), quantized.reference()(*example.values())) > 20
    for named in (example, dict(reversed(example.items())), {**example, "scale": None}):
        assert torch.equal(module(**named), expected)
    assert torch.equal(module(example["logits"], mask=example["mask"]), expected)
    refused("no input is called 'labels': expected 'logits', 'mask'", lambda: module(labels=1))
    refused("got 1 inputs: expected 2", lambda: module(mask=example["mask"]))


def test_a_name_of_pythons_that_the_file_numbers_is_one_to_call_by():
    quantized = qs.quantize(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), [images()], images())
    assert torch.equal(quantized.module()(input=images()), quantized.module()(images()))


class Tokens(nn.Module):
    """Integer inputs: an embedding, then layers."""

    def __init__(self):
        super().__init__()
        self.embed, self.hidden, self.head = (
            nn.Embedding(50, 16),
            nn.Linear(16, 16),
            nn.Linear(16, 4),
        )

    def forward(self, ids):
        return self.head(F.relu(self.hidden(self.embed(ids))).mean(1))


def test_tokens_that_the_model_does_not_know_are_refused_wherever_they_come_in():
    model, known, unknown = Tokens().eval(), torch.zeros(4, 6).long(), torch.full((4, 6), 50)
    calls = {
        "fails on calibration data: index out of range": lambda: qs.quantize(
            model, [unknown], known
        ),
        "fails on the example: index out of range": lambda: qs.quantize(model, [known], unknown),
        "fails on these inputs: index out of range": lambda: qs.quantize(
            model, [known], known
        ).module()(unknown),
    }
    for message, call in calls.items():
        refused(message, call)


class Attention(nn.Module):
    """Attention written by hand, and torch's own, over patches."""

    def __init__(self):
        super().__init__()
        self.patches, self.qkv, self.out = (
            nn.Conv2d(3, 16, 4, 4),
            nn.Linear(16, 48),
            nn.Linear(16, 16),
        )
        self.norm, self.own, self.head = (
            nn.LayerNorm(16),
            nn.MultiheadAttention(16, 2, batch_first=True),
            nn.Linear(16, 4),
        )

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.out((q @ k.transpose(-2, -1) * 0.25).softmax(-1) @ v)
        x = x + self.own(x, x, x, need_weights=False)[0]
        return self.head(x.mean(1))


@pytest.mark.parametrize("kind", ["tokens", "attention"])
def test_transformers_keep_their_layers_quantized_and_the_rest_in_float(kind, tmp_path):
    torch.manual_seed(0)
    tokens = torch.randint(0, 50, (8, 6), generator=torch.Generator().manual_seed(0))
    model, inputs = (Tokens(), (tokens,)) if kind == "tokens" else (Attention(), (images(8),))
    model = model.eval()
    quantized = qs.quantize(model, [inputs], inputs)
    exported = qs.export_onnx(quantized, tmp_path / "model.onnx", optimize_for=None)[0]
    assert len(quantized.graph.layers) >= 2 and quantized.islands
    expected = quantized.reference()(*inputs)
    assert decibels(model(*inputs), expected) > 20
    assert all(
        torch.equal(quantized.int8(engine)(*inputs), expected) for engine in ("x86", "qnnpack")
    ), "islands are the same code"
    (found,) = outputs_of_file(exported.path, quantized, inputs)
    assert decibels(model(*inputs), found) > 20


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_other_floats_are_taken_as_float32(dtype, tmp_path):
    torch.manual_seed(0)
    model = Between(nn.BatchNorm2d(8).eval()).eval()
    expected = qs.quantize(model.to(dtype).float(), [images()], images()).reference()(images())
    found = qs.quantize(
        model.to(dtype), [images().to(dtype).float()], images().to(dtype)
    ).reference()(images())
    assert decibels(expected, found) > 30


BATCHES = {
    "images and labels": lambda x: (x, torch.zeros(len(x), dtype=torch.long)),
    "a list of them": lambda x: [x, torch.zeros(len(x), dtype=torch.long)],
    "a dict": lambda x: {"image": x, "label": torch.zeros(len(x), dtype=torch.long)},
    "NumPy": lambda x: x.numpy(),
    "uint8": lambda x: (x * 255).round().byte(),
}


@pytest.mark.parametrize("name", BATCHES)
def test_calibration_takes_what_loaders_give(name):
    torch.manual_seed(0)
    model = Between(nn.ReLU()).eval()
    pixels = torch.randint(0, 256, (8, *SHAPE), generator=torch.Generator().manual_seed(0)) / 255
    plain = qs.quantize(model, [pixels], pixels, input_scale=1 / 255)
    other = qs.quantize(model, [BATCHES[name](pixels)], pixels, input_scale=1 / 255)
    entered = plain.inputs[0].integers(pixels)
    assert torch.equal(plain.reference()(entered), other.reference()(entered))


def test_calibration_refuses_what_cannot_be_meant():
    model, x = Between(nn.ReLU()).eval(), images()
    for message, batch, scale in [
        ("NaN or infinity", x / 0, None),
        ("values from .* lie in \\[0, 1\\]", x.abs() * 100, 1 / 255),
        ("shape .* expected \\[batch, 3, 12, 12\\]", x[:, :2], None),
        ("dtype torch.uint8", x.byte(), None),
        ("keys \\['a', 'b'\\]", {"a": x, "b": x}, None),
        ("expected a tensor or an array", "images", None),
    ]:
        refused(
            message,
            lambda batch=batch, scale=scale: qs.quantize(
                model, [batch], x.clamp(0, 1), input_scale=scale
            ),
        )
    refused("at least one batch", lambda: qs.quantize(model, [], x))


def test_weights_that_are_not_finite_are_refused():
    model = Between(nn.ReLU()).eval()
    model.before.weight.data[0, 0, 0, 0] = float("nan")
    refused("not finite: the weights of 'before'", lambda: qs.quantize(model, [images()], images()))


def test_inputs_in_the_wrong_unit_are_refused():
    pixels = torch.rand(4, *SHAPE)
    quantized = qs.quantize(Between(nn.ReLU()).eval(), [pixels], pixels, input_scale=1 / 255)
    raw = (pixels * 255).round()
    right = quantized.int8()(raw.byte())
    assert torch.equal(quantized.int8()(raw), right)
    assert torch.equal(quantized.int8()(quantized.inputs[0].integers(pixels)), right)
    refused("raw pixels 0...255", lambda: quantized.int8()(pixels))
    refused("real values for input_scale", lambda: quantized.inputs[0].integers(raw))
    refused("NaN", lambda: quantized.int8()(raw * float("nan")))
    refused("has shape", lambda: quantized.int8()(raw[:, :, :5]))
    refused("got 2 inputs", lambda: quantized.int8()(raw, raw))


def test_a_quantized_model_shows_itself_in_a_line_and_says_how_it_is_called():
    net, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Softmax(1)), torch.rand(2, 3, 6, 6)
    quantized = qs.quantize(net.eval(), [x], x)
    nodes = "1 Convolution, 1 Island"
    assert repr(quantized) == f"QuantizedModel(input_1 (3, 6, 6): {nodes}; weights of 108 bytes)"
    with pytest.raises(qs.InputError, match=r"quantized\.module\(\)"):
        quantized(x)


X = images(8)


NO_MODULES = {
    "an exported program": lambda net: torch.export.export(net, (X,)),
    "its module": lambda net: torch.export.export(net, (X,)).module(),
    "traced": lambda net: torch.jit.trace(net, X),
    "scripted": lambda net: torch.jit.script(net),
    "a function": lambda net: lambda x: net(x),
    "a class": lambda net: type(net),
}


def plain():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 2)).eval()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("made", NO_MODULES.values(), ids=NO_MODULES)
def test_what_is_no_module_is_refused_with_the_remedy(made):
    model = made(plain())
    for entry in (lambda: qs.quantize(model, [X], X), lambda: qs.prepare(model, X, "qat")):
        with pytest.raises(qs.InputError, match="give the module|expected a torch.nn.Module"):
            entry()


def test_a_compiled_module_is_the_one_that_was_compiled():
    net = plain()
    ours = qs.quantize(torch.compile(net), [X], X).reference()(X)
    assert torch.equal(ours, qs.quantize(net, [X], X).reference()(X))


def test_an_infinite_number_in_the_forward_is_named_beside_diverged_weights():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)
            self.register_buffer("low", torch.full((1, 4, 1, 1), -math.inf))

        def forward(self, x):
            y = self.conv(x)
            return self.last(torch.cat([y, self.low.expand(len(y), -1, 1, y.shape[3])], 2))

    found = "not finite: the range of .* with finite numbers in its forward, as -1e4 for a mask"
    refused(found, lambda: qs.quantize(Masked(), images(), [images()]))
