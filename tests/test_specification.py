"""The specification of a file: an independent program computes it, and finds every change."""

import ast
import base64
import copy
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
import torch
from drawn import drawn_networks
from onnx import numpy_helper
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))
import check_spec

import qstrategies as qs
from qstrategies.cli import main
from qstrategies.errors import InputError
from qstrategies.specification import program
from qstrategies.specification.vectors import vectors_path

ROOT = Path(__file__).parent.parent
CHECKER = ROOT / "tools" / "check_spec.py"
SCHEMAS = ROOT / "qstrategies" / "specification"
PORTABLE = sorted(
    path for path in (ROOT / "exported").glob("*.onnx") if not path.name.endswith(".fast.onnx")
)
QAT = ROOT / "exported" / "qat.onnx"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return list(drawn_networks(tmp_path_factory.mktemp("drawn")))


def checked(specification, vectors, tmp_path, *more):
    """The checker in a process of its own: exit code and what it prints."""
    paths = tmp_path / "spec.json", tmp_path / "vectors.json"
    for path, content in zip(paths, (specification, vectors), strict=True):
        path.write_text(json.dumps(content))
    command = [sys.executable, "-I", CHECKER, *paths, *more]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    return done.returncode, done.stdout + done.stderr


def read_vectors(path):
    return json.loads(vectors_path(path).read_text())


def test_the_checker_is_short_and_needs_nothing_but_numpy():
    text = CHECKER.read_text()
    assert len(text.splitlines()) <= 300
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    assert {name.split(".")[0] for name in names} <= {*sys.stdlib_module_names, "numpy"}


@pytest.mark.parametrize("path", PORTABLE, ids=lambda path: path.name)
def test_the_committed_models_are_as_specified(path, tmp_path):
    specification = json.loads(qs.specify(path).json)
    code, said = checked(specification, read_vectors(path), tmp_path, path)
    assert (code, said) == (0, "as specified: 6 tensors, 4 vectors\n")


def test_networks_of_every_operator_are_as_specified(drawn):
    kinds = set()
    for each in drawn:
        specification = json.loads(qs.specify(each.path).json)
        check_spec.check(specification, read_vectors(each.path))
        kinds |= {node["kind"] for node in specification["nodes"]}
    described = {kind.kind for kind in vars(program).values() if hasattr(kind, "kind")} - {""}
    assert kinds == described == set(check_spec.KINDS)


def test_documents_fit_their_schemas(drawn):
    schemas = [
        json.loads((SCHEMAS / f"{name}.schema.json").read_text())
        for name in ("specification", "vectors")
    ]
    validators = [jsonschema.Draft202012Validator(schema) for schema in schemas]
    for path in (QAT, *(each.path for each in drawn)):
        validators[0].validate(json.loads(qs.specify(path).json))
        validators[1].validate(read_vectors(path))
    wrong = json.loads(qs.specify(QAT).json)
    wrong["nodes"][0]["rounding"]["multipliers"][0] = "0.5"
    assert not validators[0].is_valid(wrong)


def nodes_of(specification, kind):
    return [node for node in specification["nodes"] if node["kind"] == kind]


def change_weight(specification, _):
    entry = nodes_of(specification, "convolution")[0]["weight"]
    data = bytearray(base64.b64decode(entry["base64"]))
    data[0] ^= 1
    entry["base64"] = base64.b64encode(data).decode()


def change_multiplier(specification, _):
    multipliers = nodes_of(specification, "linear")[0]["rounding"]["multipliers"]
    number = Fraction(multipliers[1])
    multipliers[1] = f"{number.numerator + 1}/{number.denominator}"


def change_bias(specification, _):
    nodes_of(specification, "convolution")[1]["bias"][5] += 1000


def change_zero_point(specification, _):
    nodes_of(specification, "linear")[0]["rounding"]["zero_point"] -= 1


def change_range(specification, _):
    nodes_of(specification, "convolution")[0]["output"]["high"] = 100


def change_bound(specification, _):
    nodes_of(specification, "linear")[0]["rounding"]["bound"] = 10


def change_stride(specification, _):
    nodes_of(specification, "max_pool")[0]["stride"] = [2, 1]


def change_hash(_, vectors):
    first = vectors["vectors"][2]["tensors"][3]
    vectors["vectors"][2]["tensors"][3] = first[::-1]


def change_input(_, vectors):
    vectors["vectors"][1]["inputs"][0]["seed"] += 1


def change_output(_, vectors):
    vectors["vectors"][0]["outputs"][0][7] += 1


def change_file(specification, _):
    specification["file_sha256"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (change_weight, "vector 1: tensor 'relu.quantized' differs"),
        (change_multiplier, "vector 1: tensor 'fc.quantized' differs"),
        (change_bias, "vector 1: tensor 'relu_2.quantized' differs"),
        (change_zero_point, "vector 1: tensor 'fc.quantized' differs"),
        (change_range, "'relu.quantized' leaves its range"),
        (change_bound, "'fc.quantized': a total is above its bound"),
        (change_stride, "vector 1: tensor 'pool.quantized' differs"),
        (change_hash, "vector 3: tensor 'pool_2.quantized' differs"),
        (change_input, "the generator gives another input"),
        (change_output, "vector 1: 'fc.quantized' differs"),
        (change_file, "specification and vectors are of different files"),
    ],
)
def test_a_change_is_found(change, reason, tmp_path):
    specification, vectors = json.loads(qs.specify(QAT).json), read_vectors(QAT)
    change(specification, vectors)
    assert checked(specification, vectors, tmp_path) == (1, f"WRONG: {reason}\n")


def test_another_kind_of_file_is_no_specification(tmp_path):
    specification, vectors = json.loads(qs.specify(QAT).json), read_vectors(QAT)
    code, said = checked(vectors, specification, tmp_path)
    assert code == 2 and "is no qstrategies-specification of version 1" in said
    code, said = checked(specification, vectors, tmp_path, PORTABLE[0])
    assert code == 1 and "the specification of another file" in said


def test_multipliers_and_bounds_are_those_of_the_file():
    known = {
        each.name: numpy_helper.to_array(each) for each in onnx.load(str(QAT)).graph.initializer
    }
    (layer,) = nodes_of(qs.specify(QAT).content, "linear")
    for channel, text in enumerate(layer["rounding"]["multipliers"]):
        scales = [Fraction(float(known[name])) for name in ("relu.scale", "fc.scale")]
        step = Fraction(float(known["fc.weight_scale"][channel]))
        assert Fraction(text) == scales[0] * step / scales[1]
    weight, bias = known["fc.weight"].astype(int), known["fc.bias"].astype(int)
    up = 255 * np.maximum(weight, 0).sum(1) + np.maximum(bias, 0)
    down = 255 * np.maximum(-weight, 0).sum(1) + np.maximum(-bias, 0)
    assert layer["rounding"]["bound"] == max(up.max(), down.max())


def test_the_page_shows_every_node_and_every_formula():
    specification = qs.specify(QAT)
    page = specification.markdown
    for node in specification.content["nodes"]:
        assert f"| {node['output']['name']} |" in page and f"| {node['kind']} |" in page
    assert "multiplier 3/8192 to 1/2048" in page


def test_the_command_writes_both(tmp_path, capsys):
    assert main(["certify", str(QAT), "--spec", str(tmp_path / "spec.json")], limited=True) == 0
    assert (tmp_path / "spec.json").read_text() == qs.specify(QAT).json
    assert (tmp_path / "spec.md").read_text() == qs.specify(QAT).markdown
    assert main(["certify", str(QAT), "--spec", str(tmp_path / "model.onnx")], limited=True) == 2
    assert "does not end in .json" in capsys.readouterr().err


def test_what_has_no_integer_semantics_is_refused_by_name(tmp_path):
    torch.manual_seed(0)
    examples = torch.rand(8, 5)
    free = qs.quantize(
        nn.Linear(5, 3), [examples], examples, config=qs.QuantizationConfig(exact=False)
    )
    qs.export_onnx(free, tmp_path / "free.onnx")
    with pytest.raises(InputError, match="no integers say what the file computes: it is not exact"):
        qs.specify(tmp_path / "free.onnx")
    with pytest.raises(InputError, match="Cast.*has no integer semantics here"):
        qs.specify(QAT.with_suffix(".fast.onnx"))


def test_offsets_say_where_every_element_comes_from():
    x = np.arange(1, 25).reshape(2, 3, 4)
    for moved in (x.transpose(2, 0, 1), x[:, ::2, 1:], np.pad(x, ((0, 0), (1, 0), (2, 1)))):
        base, offsets = program.offsets_of(moved)
        node = {"output": {"shape": list(moved.shape)}, "base": base, "offsets": offsets, "fill": 0}
        np.testing.assert_array_equal(check_spec.move(copy.deepcopy(node), x), moved)
    with pytest.raises(ValueError, match="no sum of an offset"):
        program.offsets_of(np.array([[1, 2], [2, 4]]))
