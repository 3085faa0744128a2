"""The rules of ONNX's safety profile: what is exported keeps them, and each violation is named."""

import json

import numpy as np
import onnx
import pytest
import torch
from drawn import drawn_networks
from onnx import TensorProto, helper, numpy_helper

import qstrategies as qs
from qstrategies.certificate.sonnx import violations
from qstrategies.cli import main


@pytest.fixture(scope="module")
def exported_cnn(tmp_path_factory):
    torch.manual_seed(0)
    data = (torch.rand(16, 1, 28, 28),)
    quantized = qs.quantize(qs.MODELS.get("cnn")().eval(), [data], data, input_scale=1 / 255)
    return qs.export_onnx(quantized, tmp_path_factory.mktemp("cnn") / "model.onnx")


def test_networks_of_every_operator_keep_them(tmp_path):
    for each in drawn_networks(tmp_path):
        assert violations(onnx.load(str(each.path))) == (), each.name


def test_both_forms_of_the_cnn_keep_them(exported_cnn):
    assert [file.form for file in exported_cnn] == ["portable", "fast"]
    for file in exported_cnn:
        assert violations(onnx.load(str(file.path))) == ()


def with_default(model):
    node = next(each for each in model.graph.node if each.op_type == "Conv")
    node.attribute.remove(next(each for each in node.attribute if each.name == "group"))


def with_implied_default(model):
    node = next(each for each in model.graph.node if each.op_type == "MaxPool")
    node.attribute.remove(next(each for each in node.attribute if each.name == "strides"))


def with_chosen_padding(model):
    node = next(each for each in model.graph.node if each.op_type == "Conv")
    next(each for each in node.attribute if each.name == "auto_pad").s = b"VALID"


def without_type(model):
    del model.graph.value_info[:]


def without_shape(model):
    value = next(each for each in model.graph.value_info if each.name == "relu.real")
    value.type.tensor_type.ClearField("shape")


def without_size(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].ClearField("dim_param")


def sparse(model):
    values = numpy_helper.from_array(np.ones(1, np.float32), "thin")
    places = numpy_helper.from_array(np.zeros(1, np.int64), "places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [3]))


def unread_input(model):
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def unread_output(model):
    node = next(each for each in model.graph.node if each.op_type == "MaxPool")
    node.output.append("indices")
    value = helper.make_tensor_value_info("indices", TensorProto.INT64, [1])
    model.graph.value_info.append(value)


def random(model):
    node = helper.make_node("RandomUniform", [], ["drawn"], shape=[1], dtype=1, low=0.0, high=1.0)
    model.graph.node.append(node)
    model.graph.value_info.append(helper.make_tensor_value_info("drawn", TensorProto.FLOAT, [1]))


def two_versions(model):
    model.opset_import.append(helper.make_opsetid("ai.onnx", 13))


@pytest.mark.parametrize(
    ("change", "place", "reason"),
    [
        (with_default, "Conv 'conv1.accumulated'", "it does not set group"),
        (with_implied_default, "MaxPool 'pool.pooled'", "it does not set strides"),
        (with_chosen_padding, "Conv 'conv1.accumulated'", "its padding is VALID"),
        (without_type, "image.real", "the file does not say its type"),
        (without_shape, "relu.real", "the file does not say its shape"),
        (without_size, "image", "one of its dimensions has neither a size nor a name"),
        (sparse, "thin", "it is stored as a sparse tensor"),
        (unread_input, "more", "nothing reads it"),
        (unread_output, "MaxPool 'pool.pooled'", "nothing reads its output indices"),
        (random, "RandomUniform 'drawn'", "it draws numbers"),
        (two_versions, "the file", "it imports not one version of the standard operators"),
    ],
)
def test_a_violation_is_named(exported_cnn, change, place, reason):
    model = onnx.load(str(exported_cnn[0].path))
    change(model)
    assert (place, reason) in [(each.place, each.reason) for each in violations(model)]


def test_the_command_names_them_and_says_no(exported_cnn, tmp_path, capsys):
    path = exported_cnn[0].path
    assert main(["certify", str(path), "--profile", "sonnx"], limited=True) == 0
    assert "safety profile (SONNX)         yes" in capsys.readouterr().out
    model = onnx.load(str(path))
    with_default(model)
    onnx.save(model, str(tmp_path / "model.onnx"))
    command = ["certify", str(tmp_path / "model.onnx"), "--profile", "sonnx"]
    assert main(command, limited=True) == 1
    expected = "  Conv 'conv1.accumulated': no default values (reqs, OP 016): it does not set group"
    assert expected in capsys.readouterr().out.splitlines()
    assert main([*command, "--json"], limited=True) == 1
    (found,) = json.loads(capsys.readouterr().out)["sonnx"]
    assert found["reason"] == "it does not set group"
    assert main(["certify", str(path), "--profile", "iso"], limited=True) == 2
