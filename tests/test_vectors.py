"""Golden vectors: what they say is what the integer graph computes, and a change is found."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import qstrategies as qs
from qstrategies.errors import InputError
from qstrategies.execution.verify import report_text, verify
from qstrategies.operators.drawing import Applied
from qstrategies.specification.vectors import Generated, golden_vectors, vectors_path

EXPORTED = sorted(
    path for path in (Path(__file__).parent.parent / "exported").rglob("*.onnx")
    if not path.name.endswith(".fast.onnx")
)  # fmt: skip


class Branches(nn.Module):
    """Two inputs, a narrow range, a table, an addition; two outputs."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 3, 3), nn.Linear(3, 4)

    def forward(self, a, b):
        x = torch.sigmoid(self.conv(a)) + b
        return self.head(x.mean((2, 3))), x


def generated(seed, low, high, count):
    """The generator again, from its description in the file."""
    values = []
    for _ in range(count):
        seed = (1664525 * seed + 1013904223) % 2**32
        values.append(low + seed // 2**24 * (high - low + 1) // 256)
    return np.array(values, np.uint8)


@pytest.fixture(scope="module")
def branches(tmp_path_factory):
    torch.manual_seed(0)
    examples = torch.rand(8, 2, 6, 6), torch.randn(8, 3, 4, 4)
    config = qs.QuantizationConfig(activation_bits=5)
    quantized = qs.quantize(Branches().eval(), [examples], examples, config=config)
    files = qs.export_onnx(quantized, tmp_path_factory.mktemp("vectors") / "model.onnx")
    return quantized, files[0].path


def test_the_generator_is_the_one_it_says():
    assert Generated(0, 0, 255).integers((1,)) == 1013904223 >> 24
    for seed, low, high in ((1, 0, 255), (2**32 - 1, 7, 7), (12345, 224, 255)):
        found = Generated(seed, low, high).integers((2, 50))
        np.testing.assert_array_equal(found.reshape(-1), generated(seed, low, high, 100))


def test_every_tensor_is_what_the_integer_graph_computes(branches):
    quantized, path = branches
    content = json.loads(vectors_path(path).read_text())
    assert content["file_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (content["schema"], content["version"]) == ("qstrategies-golden-vectors", 1)
    names = [each["name"] for each in content["tensors"]]
    for vector in content["vectors"]:
        arrays = []
        for entry, given in zip(content["inputs"], vector["inputs"], strict=True):
            count = int(np.prod(entry["shape"]))
            array = generated(given["seed"], given["low"], given["high"], count)
            assert hashlib.sha256(array.tobytes()).hexdigest() == given["sha256"]
            arrays.append(array.reshape(entry["shape"]))
        values = quantized.graph.integers(*arrays)
        hashes = {
            hashlib.sha256(np.array(each, order="C").tobytes()).hexdigest()
            for each in values.values()
        }
        stored = dict(zip(names, vector["tensors"], strict=True))
        assert len(stored) >= len(quantized.graph.nodes)
        unclipped = {
            stored[f"{node.output.name}.quantized"] for node in quantized.graph.nodes if node.rounds
        }
        assert hashes >= set(stored.values()) - unclipped
        for spec, end, integers in zip(
            quantized.graph.outputs, content["outputs"], vector["outputs"], strict=True
        ):
            assert (end["scale"], end["zero_point"]) == (spec.grid.scale, spec.grid.zero_point)
            np.testing.assert_array_equal(integers, values[spec.name].reshape(-1))


def test_real_inputs_are_given_by_their_integers(branches, tmp_path):
    quantized, path = branches
    (file,) = qs.export_onnx(quantized, tmp_path / "real.onnx", pixels="float32", optimize_for=None)
    whole, real = golden_vectors(path), golden_vectors(file.path)
    assert [end.dtype for end in real.inputs] == ["float32", "float32"]
    assert [each.outputs for each in whole.vectors] == [each.outputs for each in real.vectors]


@pytest.mark.parametrize("path", EXPORTED, ids=lambda path: path.name)
def test_the_vectors_of_the_committed_models_hold(path):
    assert vectors_path(path).read_text() == golden_vectors(path).json
    assert vectors_path(path).stat().st_size < 8192


def test_verify_holds_a_file_against_its_vectors(branches, location, tmp_path):
    _, path = branches
    report = verify(path, location, ["onnxruntime-all"])
    assert (report["vectors"], report["verdict"]) == ("hold", "same")
    assert "golden vectors: hold" in report_text(report)
    model = onnx.load(str(path))
    weight = next(each for each in model.graph.initializer if each.name == "head.weight")
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    changed = tmp_path / "changed.onnx"
    onnx.save(model, str(changed))
    assert verify(changed, location, ["onnxruntime-all"])["vectors"] is None
    stored = golden_vectors(path)
    vectors_path(changed).write_text(stored.json)
    assert (
        verify(changed, location, ["onnxruntime-all"])["vectors"]
        == "they are those of another file"
    )
    digest = hashlib.sha256(changed.read_bytes()).hexdigest()
    vectors_path(changed).write_text(dataclasses.replace(stored, file_sha256=digest).json)
    report = verify(changed, location, ["onnxruntime-all"])
    assert report["vectors"] == "vector 1: tensor 'head.quantized' differs"
    assert report["verdict"] == "different" and "head.quantized" in report_text(report)
    vectors_path(changed).write_text(stored.json[:-3])
    with pytest.raises(InputError, match="holds no golden vectors: it is no JSON"):
        verify(changed, location, ["onnxruntime-all"])


class Odd(nn.Module):
    """Reads only one of its inputs, and returns that too."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, a, b):
        return self.layer(b), b


def test_an_input_may_be_unread_or_an_output_itself(tmp_path):
    torch.manual_seed(0)
    examples = torch.rand(4, 5), torch.randn(4, 3)
    quantized = qs.quantize(Odd().eval(), [examples], examples)
    path = qs.export_onnx(quantized, tmp_path / "model.onnx")[0].path
    vectors = golden_vectors(path)
    assert [end.name for end in vectors.inputs] == ["b"]
    for vector in vectors.vectors:
        given = generated(vector.inputs[0].seed, vector.inputs[0].low, vector.inputs[0].high, 3)
        np.testing.assert_array_equal(vector.outputs[1], given)


def test_no_vectors_where_nobody_promises_the_bits(branches, tmp_path):
    path = tmp_path / "model.onnx"
    torch.manual_seed(0)
    examples = torch.rand(8, 5)
    layer = nn.Linear(5, 3).eval()
    zeros = Applied(lambda y: torch.zeros(len(y), 4, 2, 2) + y)
    with_zeros, x = nn.Sequential(nn.Conv2d(3, 4, 3), zeros).eval(), torch.rand(8, 3, 4, 4)
    qs.export_onnx(qs.quantize(with_zeros, [x], x, leave_in_float=[Applied]), path)
    assert not vectors_path(path).exists(), "an addition of real numbers, exact and not quantized"
    qs.export_onnx(qs.quantize(layer, [examples], examples), path)
    assert vectors_path(path).exists()
    free = qs.QuantizationConfig(exact=False)
    qs.export_onnx(qs.quantize(layer, [examples], examples, config=free), path)
    assert not vectors_path(path).exists()


def test_a_real_output_has_no_vectors(tmp_path):
    model = onnx.load(str(EXPORTED[0]))
    model.graph.node[-1].op_type = "Identity"
    del model.graph.node[-1].input[1:], model.graph.node[-1].attribute[:]
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    onnx.save(model, str(tmp_path / "bytes.onnx"))
    with pytest.raises(InputError, match="output 'logits' must be a tensor of 8-bit integers"):
        golden_vectors(tmp_path / "bytes.onnx")
