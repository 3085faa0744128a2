"""Whatever happens to the files of a finished run: one line that names the file and exit code 2, or
the result that it had."""

import contextlib
import functools
import io
import json
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import small
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qstrategies.cli import guarded, main
from qstrategies.diagnosis import run as diagnosis
from qstrategies.experiment import trained
from qstrategies.experiment.comparison import run_all
from qstrategies.experiment.runs import run_experiment
from qstrategies.experiment.workspace import Workspace
from qstrategies.records import RECORD, SEAL, RunRecord, content_key
from qstrategies.records.predictions import FILE
from qstrategies.report import write
from qstrategies.report.runs import DIAGNOSIS, keep_diagnosis
from qstrategies.training.loop import History

CONFIG = small("no_norm", checks="quick")
RUN = CONFIG.run_id
some = settings(max_examples=40, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, location):
    """The folder of one finished run, and its record; afterwards nothing trains, draws or measures
    any more."""
    folder = tmp_path_factory.mktemp("finished")
    workspace = Workspace(folder, location)
    record = run_experiment(CONFIG, workspace)
    keep_diagnosis(
        folder / RUN,
        json.dumps(
            {
                "findings": [{"rule": "r", "where": "w", "evidence": "e", "advice": "a"}],
                "trials": [[]],
            }
        ),
    )
    real = Workspace.dataset
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workspace, "dataset", lambda self, name: real(workspace, name))  # read once
        patch.setattr(trained, "train", lambda *arguments: History((), ()))
        patch.setattr(write, "draw", lambda *arguments: {})
        patch.setattr("qstrategies.report.html.page", lambda *arguments: "")
        patch.setattr(diagnosis, "diagnose_calibrated", lambda *arguments: Found())
        patch.setattr("qstrategies.experiment.tasks.run_experiment", lambda *arguments: record)
        yield folder, record


class Found:
    def to_json(self):
        return '{"findings": []}'


@contextlib.contextmanager
def damaged(folder):
    """A copy of ``folder`` to damage."""
    with tempfile.TemporaryDirectory() as name:
        yield shutil.copytree(folder, Path(name) / "runs")


def outcome(command):
    """Exit code and output of ``command``; for code 2 the one line that is all it may say."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = guarded(command)
    if code == 2:
        assert out.getvalue() == "" and error.getvalue().startswith("qstrategies: error: ")
        assert error.getvalue().count("\n") == 1, error.getvalue()
    return code, out.getvalue() + error.getvalue()


def report(folder):
    return outcome(lambda: main(["report", str(folder), "--json"]))


def everything(folder, location):
    """Report, compare and diagnose; returns what the first of them says."""
    cache = ["--cache-dir", str(location.cache)]
    said = report(folder)
    assert outcome(lambda: len(run_all([CONFIG], Workspace(folder, location))) - 1)[0] in (0, 2)
    assert outcome(
        lambda: main(["diagnose", str(folder / RUN), "--images", "64", "--json", *cache])
    )[0] in (0, 2)
    return said


@functools.cache
def usual(folder):
    """What the undamaged folder is reported to hold."""
    return json.loads(report(folder)[1])


def places(value, way=()):
    """The way to every value inside a JSON value."""
    yield way
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in inside:
        yield from places(item, (*way, key))


DEEP = "deep"
BAD = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        2,
        1e29,
        1e300,
        10**400,
        "",
        "../../x",
        "\ud800",
        "a\x00b",
        "x" * 300,
        [],
        {},
        [[[]]],
        {"a": {}},
        DEEP,
    ]
)


@some
@given(data=st.data())
def test_a_record_with_another_value_somewhere(finished, location, data):
    folder, record = finished
    content = json.loads(record.to_json())
    del content[SEAL]
    *way, last = data.draw(st.sampled_from([place for place in places(content) if place]), "place")
    inner = content
    for key in way:
        inner = inner[key]
    sealed = data.draw(st.booleans(), "sealed")
    seal = content_key(content)
    inner[last] = data.draw(BAD, "value")
    with contextlib.suppress(ValueError):
        seal = content_key(content) if sealed else seal
    text = json.dumps({**content, SEAL: seal}).replace(f'"{DEEP}"', "[" * 100_000 + "]" * 100_000)
    with damaged(folder) as runs:
        (runs / RUN / RECORD).write_text(text)
        code, said = everything(runs, location)
        assert code == 2 or sealed or RunRecord.from_json(text) == record
        assert code == 0 or RECORD in said or FILE in said


@some
@given(
    data=st.data(),
    name=st.sampled_from([RECORD, FILE, "model.onnx", "stage", DIAGNOSIS]),
    cut=st.booleans(),
    to=st.binary(max_size=9),
)
@example(data=None, name=RECORD, cut=True, to=b"")
@example(data=None, name=FILE, cut=True, to=b"")
@example(data=None, name="stage", cut=True, to=b"")
@example(data=None, name=RECORD, cut=True, to="{}".encode("utf-16"))
@example(data=None, name=DIAGNOSIS, cut=True, to=b"[" * 100_000)
@example(data=None, name=DIAGNOSIS, cut=True, to=b'{"findings": [[]]}')
def test_other_bytes_somewhere(finished, location, data, name, cut, to):
    """Overwritten or, with ``cut``, the rest of the file gone; no data: the whole file is
    ``to``."""
    folder, _ = finished
    with damaged(folder) as runs:
        path = (
            next((runs / "stages").glob("*.safetensors")) if name == "stage" else runs / RUN / name
        )
        content = path.read_bytes()
        at = 0 if data is None else data.draw(st.integers(0, len(content) - 1), "at")
        path.write_bytes(content[:at] + to + (b"" if cut else content[at + len(to) :]))
        code, said = everything(runs, location)
        assert code == 2 or json.loads(said) == usual(folder), "nothing is damaged silently"


def as_folder(path):
    path.unlink()
    path.mkdir()


def as_loop(path):
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize(
    "replace", [as_folder, as_loop, Path.unlink], ids=["folder", "loop", "gone"]
)
@pytest.mark.parametrize(
    "name",
    [f"{RUN}/{RECORD}", f"{RUN}/{FILE}", f"{RUN}/model.onnx", "stage", "report.html", ".lock"],
)
def test_something_else_where_a_file_should_be(finished, location, replace, name):
    with damaged(finished[0]) as runs:
        path = next((runs / "stages").glob("*.safetensors")) if name == "stage" else runs / name
        path.touch()
        replace(path)
        everything(runs, location)


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def claiming(shape, descr="'|u1'"):
    """An .npy file whose header claims ``shape`` and which holds ten bytes."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(10)


def zipped(content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for key in (
            "validation/labels",
            "validation/float",
            "validation/int8",
            "test/labels",
            "test/float",
            "test/int8",
        ):
            archive.writestr(f"{key}.npy", content)
    return buffer.getvalue()


def arrays_of(folder):
    with np.load(folder / RUN / FILE) as stored:
        return dict(stored)


OTHER_ARRAYS = {
    "shorter": lambda array: array[:-1],
    "empty": lambda array: array[:0],
    "negative": lambda array: array.astype(np.int64) - 100,
    "another class": lambda array: array + 1,
    "numbers with a fraction": lambda array: array.astype(float),
    "objects": lambda array: array.astype(object),
    "two dimensions": lambda array: array[None],
    "scalar": lambda array: array[0],
    "text": lambda array: array.astype(str),
    "records": lambda array: array.astype([("x", np.uint8)]),
}


@pytest.mark.parametrize("other", OTHER_ARRAYS)
@pytest.mark.parametrize("name", ["validation/int8", "test/labels", "test/float"])
def test_predictions_of_other_lengths_types_and_ranges_are_named(finished, name, other):
    with damaged(finished[0]) as runs:
        arrays = arrays_of(runs)
        (runs / RUN / FILE).write_bytes(npz(**{**arrays, name: OTHER_ARRAYS[other](arrays[name])}))
        code, said = report(runs)
        assert code == 2 and FILE in said


@pytest.mark.parametrize(
    "content",
    [
        npz(),
        npz(**{"../test/labels": np.zeros(3, np.uint8)}),
        zipped(b""),
        zipped(b"\x93NUMPY\x09\x00" + bytes(200)),
        zipped(claiming("(10,)", "'|O'")),
        zipped(claiming(f"({2**62},)")),
        zipped(claiming("(-1,)")),
        zipped(claiming("(10, 0)")),
        zipped(claiming("(((((1,),),),),)")),
        zipped(claiming("(__import__('os').getpid(),)")),
        zipped(claiming("(10,)" + "(" * 60)),
    ],
)
def test_hostile_archives_are_named_and_cost_nothing(finished, content):
    with damaged(finished[0]) as runs:
        (runs / RUN / FILE).write_bytes(content)
        code, said = report(runs)
        assert code == 2 and FILE in said


def test_an_archive_that_would_fill_the_memory_is_not_unpacked(finished, monkeypatch):
    monkeypatch.setattr("qstrategies.records.predictions.LARGEST", 10_000)
    with damaged(finished[0]) as runs:
        (runs / RUN / FILE).write_bytes(zipped(bytes(2000)))
        code, said = report(runs)
        assert code == 2 and "12000 bytes, at most 10000 are read" in said


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset", ["mnist"]),
        ("dataset", "../mnist"),
        ("accuracy", "99 %"),
        ("accuracy", 1e300),
        ("output_scale", "x"),
        ("output_scale", 0),
        ("logits_sha256", 5),
        ("strategy", {"a": 1}),
        ("form", [[]]),
        ("labels", 7),
    ],
)
def test_metadata_of_other_types_are_named_by_verify(finished, location, tmp_path, key, value):
    model = onnx.load(finished[0] / RUN / "model.onnx")
    next(item for item in model.metadata_props if item.key == key).value = json.dumps(value)
    onnx.save(model, tmp_path / "other.onnx")
    arguments = [
        "verify",
        str(tmp_path / "other.onnx"),
        "--runtime",
        "onnxruntime-disabled",
        "--cache-dir",
        str(location.cache),
    ]
    code, said = outcome(lambda: main(arguments, limited=True))
    assert (
        code == 2 and ("other.onnx" in said or value == "../mnist") and "cannot be run" not in said
    )


def test_a_whole_workspace_gives_its_result(finished, location):
    with damaged(finished[0]) as runs:
        code, said = everything(runs, location)
        assert (
            code == 0 and json.loads(said)["rows"][1]["int8_accuracy"] == finished[1].int8_accuracy
        )
