"""What tests of own networks share: quantize, and hold every executor to the specification, and
that to the float model."""

import warnings

import onnxruntime
import pytest
import torch
from torch import nn

import qstrategies as qs
from qstrategies.quantization.integer_graph import real_output
from qstrategies.quantization.structure import leaves
from qstrategies.records import ENGINES

SHAPE = (3, 12, 12)
LEVELS = ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"]


def images(count=16, shape=SHAPE, seed=0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def decibels(expected, found):
    noise = (expected - found).square().sum()
    return float(10 * torch.log10(expected.square().sum() / noise.clamp(min=1e-30)))


def tensors(value):
    return [each for _, each in leaves(value) if isinstance(each, torch.Tensor)]


def session_of(path, level="ORT_DISABLE_ALL"):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # beside others
    return onnxruntime.InferenceSession(str(path), options)


def outputs_of(session, quantized, inputs):
    pairs = zip(quantized.inputs, inputs, strict=True)
    feeds = [spec.integers(tensor).numpy() for spec, tensor in pairs]
    names = [entry.name for entry in session.get_inputs()]
    return [
        torch.from_numpy(array) for array in session.run(None, dict(zip(names, feeds, strict=True)))
    ]


def outputs_of_file(path, quantized, inputs):
    return outputs_of(session_of(path), quantized, inputs)


def check(model, tmp_path, inputs=None, *, least=20.0, islands=0, export=True, **settings):
    """Quantize ``model``, and hold every executor to the specification, and that to the float
    model.

    ``islands``: how many parts stay in float, None for any number; where some do, the file is only
    run. ``export`` False leaves that out: it takes seconds.
    """
    inputs = (images(),) if inputs is None else inputs
    model = model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        expected = tensors(model(*(each.clone() for each in inputs)))
    example = inputs if len(inputs) > 1 else inputs[0]
    quantized = qs.quantize(model, [example], example, **settings)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    found = tensors(
        quantized.reference()(
            *(
                spec.reals(spec.integers(x))
                for spec, x in zip(quantized.inputs, inputs, strict=True)
            )
        )
    )
    assert [each.shape for each in found] == [each.shape for each in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert decibels(theirs, ours) > least
    assert islands in (None, len(quantized.islands)), [
        island.reason for island in quantized.islands
    ]
    if not export:
        return quantized, []
    exported = qs.export_onnx(quantized, tmp_path / "model.onnx")
    if islands == 0:
        same_bits(quantized, exported, inputs, found)
    return quantized, exported


def same_bits(quantized, exported, inputs, expected):
    certificate = exported[0].certificate
    assert certificate["integer_kernels"] and certificate["float_executors"]
    integers = [spec.integers(x) for spec, x in zip(quantized.inputs, inputs, strict=True)]
    wild = [
        torch.randint(0, 256, each.shape, dtype=torch.uint8) if each.dtype == torch.uint8 else each
        for each in integers
    ]
    engines = {
        name: quantized.int8(name)
        for name in ENGINES
        if name in torch.backends.quantized.supported_engines
    }
    sessions = {
        (file.form, level): session_of(file.path, level) for file in exported for level in LEVELS
    }
    for entered in (integers, wild):
        right = tensors(quantized.reference()(*entered))
        values = quantized.graph.integers(*(each.numpy() for each in entered))
        for spec, tensor in zip(quantized.graph.outputs, right, strict=True):
            assert torch.equal(real_output(spec, values[spec.name]), tensor), "the specification"
        for engine, module in engines.items():
            for ours, tensor in zip(tensors(module(*entered)), right, strict=True):
                assert torch.equal(ours, tensor), engine
        for which, session in sessions.items():
            outputs = outputs_of(session, quantized, entered)
            for ours, tensor in zip(outputs, right, strict=True):
                assert torch.equal(ours, tensor), which


class Between(nn.Module):
    """``function`` between two convolutions."""

    def __init__(self, function, channels=8):
        super().__init__()
        torch.manual_seed(1)
        self.before = nn.Conv2d(3, channels, 3, padding=1)
        self.function = function
        self.after = nn.LazyConv2d(4, 1)
        self(images(2))

    def forward(self, x):
        return self.after(self.function(self.before(x)))


def refused(message, function):
    with warnings.catch_warnings(), pytest.raises(qs.InputError, match=message):
        warnings.simplefilter("error")
        function()
