"""Bad input: one clear line, exit code 2, nothing half-written. Each case through the real command line."""

import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qstrategies.cli import COMMANDS, main, parser

SHORT = ["--quiet", "--epochs", "1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compair"], "unknown command 'compair'. Did you mean 'compare'?"),
        (["run", "weightnorm"], "unknown strategy 'weightnorm'. Did you mean 'weight_norm'?"),
        (["compare", "qat", "quat"], "unknown strategy 'quat'. Did you mean 'qat'?"),
        (["run"], "the following arguments are required: STRATEGY"),
        (["run", "qat", "--epohcs", "3"], "unrecognized arguments: --epohcs 3"),
        (["run", "qat", "--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
        (["run", "qat", "--epochs", "0"], "epochs 0 is out of range: it must lie in 1...1000"),
        (["run", "qat", "--weight-bits", "1"], "weight bits 1 is out of range: it must lie in 2...8"),
        (["compare", "--bits", "8,x"], "--bits 'x': expected whole numbers"),
        (["compare", "--bits", "9"], "weight bits 9 is out of range"),
        (["compare", "--seeds", "0"], "number of seeds 0 is out of range"),
        (["run", "qat", "--engine", "fbgem"], "unknown engine 'fbgem'. Did you mean 'fbgemm'?"),
        (["run", "qat", "--model", "cmn"], "unknown model 'cmn'. Did you mean 'cnn'?"),
        (["run", "qat", "--dataset", "mnits"], "unknown dataset 'mnits'. Did you mean 'mnist'?"),
        (["run", "qat", "--preset", "pots"], "unknown preset 'pots'. Did you mean 'post'?"),
        (["run", "clamp", "--option", "threshold"], "--option 'threshold': expected NAME=NUMBER"),
        (["run", "clamp", "--option", "treshold=1"], "none of clamp has the option 'treshold'. Valid: threshold"),
        (["run", "clamp", "--option", "threshold=-1"], "threshold -1.0 is out of range"),
        (["run", "no_norm", "--dataset", "fashion_mnist", "--cache-dir", "{tmp}"], "fashion_mnist is not in the package"),
        (["run", "no_norm", "--data-dir", "{tmp}", "--cache-dir", "{tmp}/c"], "has no file 'train-images-idx3-ubyte'"),
        (["verify", "{tmp}/none.onnx"], "no such file"),
        (["verify", "{tmp}/text.onnx"], "is not a valid ONNX file"),
        (["verify", "{model}", "--runtime", "tensorrt"], "unknown runtime 'tensorrt'"),
        (["predict", "{tmp}/text.onnx", "a.png"], "is not a valid ONNX file"),
        (["certify", "{tmp}/text.onnx"], "is not a valid ONNX file"),
        (["predict", "{model}", "{tmp}/none.png"], "No such file or directory"),
        (["predict", "{model}", "{tmp}/text.onnx"], "is not an image that Pillow reads"),
        (["report", "{tmp}"], "no run records in"),
        (["report", "{tmp}", "--margin", "-1"], "margin -1.0 is out of range"),
        (["compare", "--max-drop", "-101"], "largest drop -1.01 is out of range"),
        (["compare", "--max-epochs", "0"], "largest epochs 0 is out of range"),
        (["diagnose", "{tmp}", "--cache-dir", "{cache}"], "is not the folder of a run: it has no record.json"),
        (["data", "shwo"], "unknown action of data 'shwo'. Did you mean 'show'?"),
        (["data", "show", "--out", "{tmp}/text.onnx", "--cache-dir", "{cache}"], "exists"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path, capfd, exported, location):
    (tmp_path / "text.onnx").write_text("this is not a model")
    places = {"tmp": str(tmp_path), "model": str(exported), "cache": str(location.cache)}
    out = ["--out", str(tmp_path / "out")] if arguments[0] in ("run", "compare") else []
    assert main([argument.format(**places) for argument in arguments] + out) == 2
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("qstrategies: error: ") and shown.err.count("\n") == 1
    assert message in shown.err


def test_a_damaged_record_is_named_by_report(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "record.json").write_text("{")
    assert main(["report", str(tmp_path)]) == 2
    assert "not a run record" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_that_explains_its_arguments(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 5
    assert name in parser().format_help()


def test_list_names_everything_and_prints_json(capsys):
    assert main(["list", "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    assert {"strategies", "models", "datasets", "runtimes", "trackers"} == set(listing)
    assert all(item["summary"] for items in listing.values() for item in items)


def test_run_report_verify_and_predict_work_together(tmp_path, location, capsys):
    common = ["--dataset", "small_mnist", "--cache-dir", str(location.cache)]
    out = tmp_path / "runs"
    assert main(["run", "no_norm", *common, *SHORT, "--batch-size", "64", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "float baseline" in text and "no_norm" in text
    assert main(["report", str(out), "--json"]) == 0
    reported = json.loads(capsys.readouterr().out)
    assert [row["strategy"] for row in reported["rows"]] == ["float baseline", "no_norm small_mnist"]
    (folder,) = out.glob("no_norm-*")
    assert main(["diagnose", str(folder), "--images", "64", "--cache-dir", str(location.cache), "--json"]) == 0
    assert "findings" in json.loads(capsys.readouterr().out)
    (model,) = out.glob("*/model.fast.onnx")
    assert main(["verify", str(model), "--cache-dir", str(location.cache), "--json"], limited=True) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "same"


CHILD = "import sys; sys.path.insert(0, {tests!r}); import conftest; from qstrategies.cli import main; sys.exit(main(sys.argv[1:]))"


def command(tmp_path, location, *more):
    code = CHILD.format(tests=str(Path(__file__).parent))
    arguments = [
        "compare",
        "no_norm",
        "--dataset",
        "small_mnist",
        "--cache-dir",
        str(location.cache),
        "--out",
        str(tmp_path),
        "--batch-size",
        "64",
    ]
    return [sys.executable, "-c", code, *arguments, *more]


def left_over(folder):
    return [path for path in folder.rglob(".*") if path.name != ".lock"]


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path, location, mnist):
    limit = 100_000  # bytes a file may grow to: the write of the trained model fails, as on a full disk
    done = subprocess.run(
        command(tmp_path, location, "--epochs", "1", "--quiet"),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "File too large" in done.stderr
    assert left_over(tmp_path) == [] and list(tmp_path.glob("*/record.json")) == []


def test_ctrl_c_ends_with_130_and_keeps_finished_runs(tmp_path, location, mnist):
    process = subprocess.Popen(
        command(tmp_path, location, "--epochs", "1", "--bits", "8,4,3,2", "--seeds", "50"),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job of a shell inherits that it is ignored
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/record.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error and "finished runs are kept" in error
    assert list(tmp_path.glob("*/record.json")) and left_over(tmp_path) == []


def test_two_comparisons_in_one_folder_are_refused(tmp_path, location, capsys):
    from qstrategies.files import exclusive

    with exclusive(tmp_path):
        assert main([*command(tmp_path, location)[3:], "--quiet"]) == 2
    assert "another comparison is writing to" in capsys.readouterr().err
