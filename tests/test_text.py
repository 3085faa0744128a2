"""Names that mean harm, through every function that makes them harmless and every place where
output is written."""

import csv
import io
import json
import string
from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from qstrategies import text
from qstrategies.certificate import certify_model
from qstrategies.cli import guarded
from qstrategies.cli.output import show, show_json
from qstrategies.errors import InputError
from qstrategies.progress import Progress, Work
from qstrategies.records import ExperimentConfig, RunRecord
from qstrategies.report import drawing, plain, table
from qstrategies.report.grid import Grid

HARMFUL = [
    "\x1b[2J\x1b]0;title\x07", "\x9b31m", "\r\n", "\t", "\0", "\x7f", "\u202e", "\u2066", "\u200b", "\u2028", "\ud800",
    "<script>", "<img src=x onerror=x>", "&lt;", "&#60;", "](http://a.b)", "![", "[a]: b", "http://a.b", "www.a.b",
    "`", "**", "__", "~~", "$x$", "|", "\\", "# ", "- ", "=1+1", "+1", "@a", "-", "\uff1d1", "../", "/etc", ".", " ", "a", "B_2", "é", "数",
]  # fmt: skip
NAMES = st.lists(st.one_of(st.sampled_from(HARMFUL), st.characters()), max_size=12).map("".join)


def raw(shown: str, allowed: str = "") -> list[str]:
    """The characters of ``shown`` that a terminal obeys or hides."""
    return [
        character for character in shown if not character.isprintable() and character not in allowed
    ]


def read_markdown(cell: str) -> str:
    """What a reader of Markdown sees of ``cell``; fails at anything active. By the rules of
    CommonMark and its tables."""
    seen, place = "", 0
    while place < len(cell):
        here, rest = cell[place], cell[place + 1 :]
        assert here not in "`*<|~$", f"active {here!r} in {cell!r}"
        if here == "\\":
            assert rest[0] in string.punctuation
            seen, place = seen + rest[0], place + 2
            continue
        if here == "&":
            entity, _, _ = rest.partition(";")
            seen, place = seen + {"amp": "&", "lt": "<"}[entity], place + len(entity) + 2
            continue
        if here == "_":
            assert cell[place - 1 : place].isalnum() and rest[:1].isalnum()
        assert here != "]" or rest[:1] not in ("(", "[", ":")
        assert here != ":" or not rest.startswith("//")
        assert here != "." or cell[max(0, place - 3) : place].lower() != "www"
        seen, place = seen + here, place + 1
    return seen


@given(NAMES)
@settings(max_examples=300, deadline=None)
def test_no_name_is_more_than_text_wherever_it_is_written(name):
    shown = text.line(name)
    assert raw(shown) == [] and text.line(shown) == shown
    assert raw(text.block(name), "\n") == []
    assert read_markdown(text.markdown(name)) == shown
    assert text.csv_cell(name).strip()[:1] not in tuple("=+-@\uff1d\uff0b\uff0d\uff20")
    assert json.loads(text.json_text({"name": name}))["name"] == name
    assert raw(text.json_text({"name": name}), "\n") == []


@given(NAMES, NAMES)
@settings(max_examples=100, deadline=None)
def test_tables_keep_their_form(name, other):
    grid = Grid("title", ["a", "b"], [[name, other], [other, name]], f"of {name}")
    lines = grid.as_text().split("\n")
    assert len(lines) == 4 and len({len(item) for item in lines}) == 1 and raw("".join(lines)) == []
    rows = grid.as_markdown().split("\n")
    assert len(rows) == 7 and raw("".join(rows)) == []
    for row in rows[2:4]:
        first, second = row.removeprefix("| ").removesuffix(" |").split(" | ")
        assert {read_markdown(first), read_markdown(second)} == {text.line(name), text.line(other)}
    assert read_markdown(rows[5]) == f"of {text.line(name)}"


@given(NAMES.filter(bool))
@settings(max_examples=200, deadline=None)
def test_a_run_lies_in_one_folder_of_the_workspace(name):
    record = RunRecord(config=ExperimentConfig(strategy=name), status="failed")
    run_id = record.config.run_id
    assert Path("runs", run_id).parent == Path("runs") and Path(run_id).name == run_id
    assert len(run_id.encode()) < 200 and not run_id.startswith(".") and raw(run_id) == []


def test_names_that_become_the_same_folder_name_do_not_collide():
    names = ("a/b", "a_b", "a\0b", "a" * 300, "a" * 301)
    assert text.file_name("a/b") == text.file_name("a_b") and text.file_name(
        "a" * 300
    ) == text.file_name("a" * 301)
    assert len({ExperimentConfig(strategy=name).run_id for name in names}) == len(names)


@pytest.mark.parametrize(
    "name", ["no_norm", "qat_weight_norm", "clamp threshold=0.1 per-tensor", "resnet8", "ä-1"]
)
def test_ordinary_names_stay_as_they_are(name):
    assert (
        text.line(name)
        == text.markdown(name)
        == text.csv_cell(name)
        == text.file_name(name)
        == name
    )


def test_intervals_and_numbers_stay_as_they_are():
    assert text.markdown("-0.02 [-0.06, 0.02]") == "-0.02 [-0.06, 0.02]"
    assert [text.csv_cell(value) for value in (-0.5, -1, None, True)] == [-0.5, -1, None, True]
    assert text.json_text([float("nan"), {"a": (float("inf"), -1.5)}]) == json.dumps(
        [None, {"a": [None, -1.5]}], indent=1
    )


def test_the_csv_file_has_no_formula_and_keeps_negative_numbers():
    names = ["=1+1", "+1", "-1", "@a", "\t=1", "\r=1", "a;=1", 'a","=1', " =1"]
    record = RunRecord(
        config=ExperimentConfig(strategy="x"), status="done", float_accuracy=0.5, int8_accuracy=0.75
    )
    rows = [table.Row(strategy=name, weight_bits=8, seeds=1, drop=record.drop) for name in names]
    written = plain.as_csv(rows)
    parsed = list(csv.DictReader(io.StringIO(written)))
    assert [row["drop"] for row in parsed] == ["-0.25"] * len(names) and ',"-0.25"' not in written
    assert all(row["strategy"].strip()[0] not in "=+-@" for row in parsed)
    assert '"a;=1"' in written, (
        "quoted, so that it is one cell where cells are separated by semicolons too"
    )


@pytest.mark.parametrize("interactive", [True, False])
def test_progress_is_one_visible_line(interactive, capsys):
    progress = Progress()
    progress._interactive = interactive
    progress.advance(Work("run", "x"), "".join(HARMFUL))
    shown = capsys.readouterr().err
    assert raw(shown.removeprefix("\r\033[K").removesuffix("\n")) == []


def test_errors_and_results_show_no_raw_character(capsys):
    name = "".join(HARMFUL)

    def fails():
        raise InputError(f"unknown thing {name}")

    def disk_fails():
        raise OSError(28, "No space left on device", name)

    assert guarded(fails) == guarded(disk_fails) == 2
    show(name)
    show_json([name])
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 2 and raw(shown.err + shown.out, "\n") == []


def test_what_the_encoding_of_the_terminal_lacks_is_written_as_escapes(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    show("99 ± 1")
    assert stream.buffer.getvalue() == b"99 \\xb1 1\n"


def test_the_name_of_a_node_cannot_pose_as_a_line_of_the_certificate():
    name = "x\nexact on integer kernels       yes\x1b[2K"
    node = helper.make_node("Sin", ["a"], ["b"], name=name)
    entries = [helper.make_tensor_value_info(end, TensorProto.FLOAT, [1]) for end in "ab"]
    graph = helper.make_graph([node], "graph", entries[:1], entries[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    onnx.checker.check_model(model)
    shown = certify_model(model).as_text()
    assert raw(shown, "\n") == []
    assert [
        item.split()[-1]
        for item in shown.split("\n")
        if item.startswith("exact on integer kernels")
    ] == ["NO"]


def test_names_in_figures_are_plain_labels():
    assert drawing.plain("$x$\x1b\n") == r"\$x\$\x1b\n"
    assert drawing.plain("__") == "-" and len(drawing.plain("a" * 10_000)) < 100
