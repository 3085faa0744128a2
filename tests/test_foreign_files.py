"""Files from anywhere: altered, truncated, mutated or hostile ones end in a result or in one clear
line."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from qstrategies.cli import CPU_SECONDS, main
from qstrategies.errors import InputError
from qstrategies.execution.predict import predict
from qstrategies.execution.verify import report_text, verify
from qstrategies.onnx_file import content_hash, load_checked, unchanged


def model_of(nodes, shape=("n", 1, 28, 28), kind=TensorProto.UINT8, initializers=(), **settings):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m"] * len(shape))],
        list(initializers),
    )
    return helper.make_model(
        graph, ir_version=9, **({"opset_imports": [helper.make_opsetid("", 19)]} | settings)
    )


def saved(model, path):
    onnx.save(model, str(path))
    return path


def cast(name="x", to="y"):
    return helper.make_node("Cast", [name], [to], to=TensorProto.FLOAT)


def outside(name):
    tensor = numpy_helper.from_array(np.float32([1]), name)
    onnx.external_data_helper.set_external_data(tensor, location="/etc/passwd")
    tensor.ClearField("raw_data")
    return tensor


def test_a_custom_operator_is_refused_wherever_it_hides(tmp_path):
    domains = {"opset_imports": [helper.make_opsetid("", 19), helper.make_opsetid("com.evil", 1)]}
    custom = helper.make_node("Run", ["x"], ["y"], domain="com.evil")
    inner = helper.make_graph(
        [custom], "inner", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    )
    condition = numpy_helper.from_array(np.array(True), "c")
    hidden = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    for model in (
        model_of([custom], **domains),
        model_of([hidden], initializers=[condition], **domains),
    ):
        with pytest.raises(
            InputError, match="operator 'Run' of 'com.evil': only standard operators"
        ):
            load_checked(saved(model, tmp_path / "m.onnx"))
    function = helper.make_function(
        "com.evil", "Run", ["x"], ["y"], [cast()], [helper.make_opsetid("", 19)]
    )
    with pytest.raises(InputError, match="functions of its own"):
        load_checked(
            saved(model_of([custom], functions=[function], **domains), tmp_path / "m.onnx")
        )


def test_external_data_is_refused_wherever_it_hides(tmp_path):
    constant = helper.make_node("Constant", [], ["c"], value=outside("v"))
    add = helper.make_node("Add", ["r", "c"], ["y"])
    for model in (
        model_of([cast(to="r"), add], initializers=[outside("c")]),
        model_of([cast(to="r"), constant, add]),
    ):
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(InputError, match="only self-contained files"):
            load_checked(tmp_path / "m.onnx")


def test_a_large_file_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "m.onnx").open("wb") as file:
        file.truncate(513 << 20)  # no blocks on the disk
    with pytest.raises(InputError, match="has 513 MB: at most 512"):
        load_checked(tmp_path / "m.onnx")


def test_every_change_of_an_exported_file_is_noticed(exported, tmp_path):
    model = onnx.load(str(exported))
    assert unchanged(model) is True
    for change in (
        lambda altered: altered.graph.node[0].attribute.add(
            name="note", i=1, type=onnx.AttributeProto.INT
        ),
        lambda altered: setattr(
            altered.graph.initializer[1],
            "raw_data",
            altered.graph.initializer[1].raw_data[:-1] + b"\x01",
        ),
        lambda altered: setattr(
            next(item for item in altered.metadata_props if item.key == "accuracy"), "value", "1.0"
        ),
        lambda altered: setattr(
            next(item for item in altered.metadata_props if item.key == "content_sha256"),
            "value",
            '"0"',
        ),
        lambda altered: setattr(altered, "producer_name", "another"),
    ):
        altered = onnx.ModelProto()
        altered.CopyFrom(model)
        change(altered)
        assert unchanged(altered) is False
    del model.metadata_props[:]
    assert unchanged(model) is None and content_hash(model)


def test_the_commands_say_that_a_file_was_altered_or_has_no_hash(exported, tmp_path, capfd):
    altered = onnx.load(str(exported))
    altered.doc_string = "changed"
    path = saved(altered, tmp_path / "altered.onnx")
    assert main(["certify", str(path)]) == 0
    assert f"{path}: ALTERED after its export" in capfd.readouterr().out
    assert main(["certify", str(exported), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["unchanged"] is True
    Image.new("L", (28, 28)).save(tmp_path / "black.png")
    assert main(["predict", str(path), str(tmp_path / "black.png")]) == 0
    assert "ALTERED after its export" in capfd.readouterr().err
    del altered.metadata_props[:]
    assert main(["certify", str(saved(altered, path))]) == 0
    assert "no hash in this file" in capfd.readouterr().out


def test_files_of_other_tools_are_verified_on_random_pixels_and_predict(tmp_path, location):
    flat = [cast(to="r"), helper.make_node("Flatten", ["r"], ["y"])]
    path = saved(model_of(flat, shape=("n", 1, 2, 2)), tmp_path / "m.onnx")
    model = onnx.load(str(path))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4]))
    report = verify(saved(model, path), location)
    assert (
        report["verdict"] == "same"
        and max(check["images"] for check in report["checks"]) == 64
        and report["unchanged"] is None
    )
    assert "random pixels" in report_text(report)
    Image.fromarray(np.uint8([[0, 0], [90, 0]])).save(tmp_path / "p.png")
    (result,) = predict(path, [tmp_path / "p.png"])
    assert (result["label"], result["logit"], result["margin"]) == ("2", 90, 90)
    colour = model_of([cast()], shape=("n", 3, 2, 2))
    (result,) = predict(saved(colour, path), [tmp_path / "p.png"])
    assert result["outputs"] == [[[0, 0], [90, 0]]] * 3
    unknown = model_of([cast()], shape=("n", "c", "h", "w"))
    with pytest.raises(InputError, match="of known shapes"):
        verify(saved(unknown, path), location)


def bomb(count):
    """A constant of 256^count values from a file of some hundred bytes, in a mean, so that certify
    has to compute it."""
    constants = [numpy_helper.from_array(np.full(count, 256, np.int64), "size")]
    fill = helper.make_node("ConstantOfShape", ["size"], ["c"])
    total = helper.make_node("ReduceSum", ["c"], ["s"])
    return model_of(
        [fill, total, cast(to="r"), helper.make_node("Add", ["r", "s"], ["y"])],
        initializers=constants,
    )


def test_a_memory_bomb_ends_at_the_limit(tmp_path, capfd):
    path = saved(bomb(5), tmp_path / "bomb.onnx")
    assert main(["certify", str(path)]) in (1, 2)  # not proven, or refused: in either case it ends
    assert main(["verify", str(path), "--runtime", "onnxruntime-disabled"]) == 2
    shown = capfd.readouterr()
    assert "Traceback" not in shown.err and shown.err.count("\n") <= 2


def test_half_of_the_memory_is_out_of_reach(tmp_path):
    half = "os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2"
    code = f"import os; from qstrategies.sandbox import limit; limit(60); bytearray({half})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == "MemoryError"


def test_a_time_bomb_ends_at_the_limit(tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(CPU_SECONDS, "predict", 3)
    trips, condition = (
        numpy_helper.from_array(np.array(2**40), "trips"),
        numpy_helper.from_array(np.array(True), "true"),
    )
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Identity", ["state"], ["next"]),
        ],
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("go", TensorProto.BOOL, []),
            value("state", TensorProto.FLOAT, [1]),
        ],
        [value("on", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, [1])],
    )
    start = numpy_helper.from_array(np.float32([0]), "start")
    loop = helper.make_node("Loop", ["trips", "true", "start"], ["y"], body=body)
    ends = [value("x", TensorProto.UINT8, ["n", 1, 2, 2])], [value("y", TensorProto.FLOAT, [1])]
    graph = helper.make_graph([loop], "g", *ends, [trips, condition, start])
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 19)])
    path = saved(model, tmp_path / "loop.onnx")
    assert main(["certify", str(path)]) == 1
    assert "Loop" in capfd.readouterr().out
    Image.new("L", (28, 28)).save(tmp_path / "black.png")
    assert main(["predict", str(path), str(tmp_path / "black.png")]) == 2
    assert "needs more than 3 s of CPU time" in capfd.readouterr().err


FUZZ = """\
import random, sys
from pathlib import Path
from qstrategies.certificate import certify_model
from qstrategies.errors import InputError
from qstrategies.onnx_file import load_checked, metadata_of, unchanged
from qstrategies.runtimes.onnx_runtime import Disabled

original, path, count = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]), int(sys.argv[3])
rng = random.Random(0)
outcomes = {"refused": 0, "altered": 0, "unchanged": 0}
for number in range(count):
    mutant = bytearray(original)
    if number % 3 == 0:
        del mutant[rng.randrange(len(mutant)):]
    for _ in range(rng.choice([1, 1, 4]) if number % 3 else 0):
        early = rng.random() < 0.5  # the nodes and names come first, the weights later
        mutant[rng.randrange(4000 if early else len(mutant))] = rng.randrange(256)
    path.write_bytes(mutant)
    try:
        model = load_checked(path)
        certify_model(model).as_text()
        Disabled(path)
        metadata_of(model, path)
        outcomes["altered" if unchanged(model) is not True else "unchanged"] += 1
    except InputError as error:
        assert len(str(error).splitlines()) == 1, error
        outcomes["refused"] += 1
print(outcomes["refused"], outcomes["altered"], outcomes["unchanged"])
"""


def test_truncated_and_mutated_files_are_results_or_clear_errors(exported, tmp_path):
    command = [sys.executable, "-c", FUZZ, str(exported), str(tmp_path / "m.onnx"), "300"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    refused, altered, same = map(int, done.stdout.split())
    assert refused + altered + same == 300 and refused > 100 and altered > 20
