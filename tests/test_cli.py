"""Bad input: one clear line, exit code 2, nothing half-written. Each case through the real command
line."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from PIL import Image

from qstrategies.cli import COMMANDS, guarded, main, parser
from qstrategies.cli.output import OUTPUT_CLOSED

SHORT = ["--quiet", "--epochs", "1"]


@pytest.fixture
def exported_file():
    return Path(__file__).parent.parent / "exported" / "no_norm.onnx"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compair"], "unknown command 'compair'. Did you mean 'compare'?"),
        (["run", "weightnorm"], "unknown strategy 'weightnorm'. Did you mean 'weight_norm'?"),
        (["compare", "qat", "quat"], "unknown strategy 'quat'. Did you mean 'qat'?"),
        (["run"], "the following arguments are required: STRATEGY"),
        (
            ["run", "qat", "--epohcs", "3"],
            "unknown option of run '--epohcs'. Did you mean '--epochs'? Valid: ",
        ),
        (
            ["run", "qat", "--epochs", "many"],
            "argument --epochs: 'many' is not a whole number: expected one",
        ),
        (["run", "qat", "--epochs", "0"], "epochs 0 is out of range: it must lie in 1...1000"),
        (
            ["run", "qat", "--weight-bits", "1"],
            "weight bits 1 is out of range: it must lie in 2...8",
        ),
        (["compare", "--bits", "8,x"], "--bits '8,x': expected whole numbers, as 8,4,3,2"),
        (["compare", "--bits", "9"], "weight bits 9 is out of range"),
        (["compare", "--seeds", "0"], "number of seeds 0 is out of range"),
        (["run", "qat", "--engine", "fbgem"], "unknown engine 'fbgem'. Did you mean 'fbgemm'?"),
        (["run", "qat", "--model", "cmn"], "unknown model 'cmn'. Did you mean 'cnn'?"),
        (["run", "qat", "--dataset", "mnits"], "unknown dataset 'mnits'. Did you mean 'mnist'?"),
        (["run", "qat", "--preset", "pots"], "unknown preset 'pots'. Did you mean 'post'?"),
        (["run", "clamp", "--option", "threshold"], "--option 'threshold': expected NAME=NUMBER"),
        (
            ["run", "clamp", "--option", "treshold=1"],
            "none of clamp has the option 'treshold'. Valid: sigma, threshold",
        ),
        (["run", "clamp", "--option", "threshold=-1"], "threshold -1.0 is out of range"),
        (
            ["run", "no_norm", "--dataset", "fashion_mnist", "--cache-dir", "{tmp}"],
            "fashion_mnist is not in the package",
        ),
        (
            ["run", "no_norm", "--data-dir", "{tmp}", "--cache-dir", "{tmp}/c"],
            "has no file 'train-images-idx3-ubyte'",
        ),
        (["verify", "{tmp}/none.onnx"], "no such file"),
        (["verify", "{tmp}/text.onnx"], "is not a valid ONNX file"),
        (["verify", "{model}", "--runtime", "tensorrt"], "unknown runtime 'tensorrt'"),
        (["predict", "{tmp}/text.onnx", "a.png"], "is not a valid ONNX file"),
        (["certify", "{tmp}/text.onnx"], "is not a valid ONNX file"),
        (["predict", "{model}", "{tmp}/none.png"], "No such file or directory"),
        (["predict", "{model}", "{tmp}/text.onnx"], "is not an image that Pillow reads"),
        (["report", "{tmp}"], "no run records in"),
        (
            ["diagnose", "{tmp}", "--cache-dir", "{cache}"],
            "(record.json): expected the folder of one run",
        ),
        (["--out", "x", "run"], "'--out' stands before the command: give one of run, "),
        (
            ["run", "qat", "--bits", "4"],
            "option of run '--bits': give --weight-bits or --activation-bits",
        ),
        (["run", "qat", "clamp"], "run takes no further 'clamp': leave it out"),
        (["run", "qat+"], "'qat+' has a '+' beside nothing"),
        (["run", "QAT"], "unknown strategy 'QAT'. Did you mean 'qat'?"),
        (["run", "qat", "--seed", "-1"], "seed -1 is out of range: it must lie in 0...2147483647"),
        (["run", "qat", "--data-dir", "{tmp}/none"], "is not there: give the folder"),
        (["run", "qat", "--model", "mine.py"], "give it as --use mine.py"),
        (["data", "shwo"], "unknown action of data 'shwo'. Did you mean 'show'?"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments, message, tmp_path, capfd, exported, location
):
    (tmp_path / "text.onnx").write_text("this is not a model")
    places = {"tmp": str(tmp_path), "model": str(exported), "cache": str(location.cache)}
    out = ["--out", str(tmp_path / "out")] if arguments[0] in ("run", "compare") else []
    assert main([argument.format(**places) for argument in arguments] + out) == 2
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("qstrategies: error: ") and shown.err.count("\n") == 1
    assert message in shown.err


PATHS = {  # every option and argument that is a path: what it must be
    "run no_norm --out": "folder",
    "run no_norm --data-dir": "folder",
    "run no_norm --checkpoint": "file",
    "run no_norm --config": "file",
    "list --use": "file",
    "run no_norm --cache-dir": "folder",
    "compare --out": "folder",
    "data show --out": "folder",
    "data show --cache-dir": "folder",
    "report": "folder",
    "diagnose": "folder",
    "diagnose . --data-dir": "folder",
    "verify": "file",
    "verify x --cache-dir": "folder",
    "certify": "file",
    "predict": "file",
    "predict x": "file",
}
NUMBERS = {  # every option that is a number: values out of range
    "run qat --weight-bits": ["1", "9", "-8"],
    "run qat --activation-bits": ["1", "9", "-8"],
    "run qat --calibration-draw": ["-1", "1000"],
    "run qat --epochs": ["0", "-1", "1001"],
    "run qat --learning-rate": ["0", "-0.1", "11", "nan", "inf"],
    "run qat --batch-size": ["1", "-64", "8193"],
    "run qat --tune-epochs": ["0", "-3"],
    "run qat --tune-learning-rate": ["0", "nan", "inf"],
    "run qat --seed": ["-1", "2147483648", "9" * 30],
    "run qat --calibration-images": ["0", "-1", "10001"],
    "run clamp --option": ["threshold=nan", "threshold=inf", "threshold=-1"],
    "compare --seeds": ["0", "-5", "1001"],
    "compare --bits": ["8,-3", "1", "9", "8,4,16"],
    "compare --activation-bits": ["8,-3", "1", "9", "8,4,16"],
    "compare --calibration-draws": ["0", "-5", "1001"],
    "compare --margin": ["0", "-1", "101", "nan", "inf"],
    "report . --max-drop": ["-5", "-0.01", "101", "nan", "inf"],
    "report . --max-latency": ["0", "-1", "nan", "inf"],
    "report . --max-epochs": ["0", "-1", "9" * 30],
    "report . --size": ["0", "-1", "nan", "inf"],
    "diagnose . --images": ["0", "1", "-7", "9" * 30],
}
FAULTY = {  # what is no number at all, or no whole one
    "run qat --epochs": ["", "3.5", "1e2", "many"],
    "run qat --learning-rate": ["", "fast", "1,5", "-inf"],
    "compare --seeds": ["", "five", "5.0"],
    "compare --bits": ["", ",", "8;4", "8,4.5"],
    "compare --margin": ["", "small"],
    "report . --max-epochs": ["2.5", "", "nan", "9" * 5000],
    "report . --size": ["", "1KB"],
    "run clamp --option": ["", "=", "threshold", "threshold=", "=1", "threshold=x"],
}


def wrong_paths(tmp_path):
    (tmp_path / "file").touch()
    other = {"folder": str(tmp_path / "file"), "file": str(tmp_path)}
    for line, kind in PATHS.items():
        yield [*line.split(), ""], "is empty: expected a path"
        yield [*line.split(), " "], "is empty: expected a path"
        yield [*line.split(), "a\0b"], "NUL"
        yield [*line.split(), "x" * 5000], "File name too long"
        yield [*line.split(), other[kind]], f"expected a {kind}"


def wrong_values():
    for line, values in NUMBERS.items():
        yield from (([*line.split(), value], "out of range") for value in values)
    for line, values in FAULTY.items():
        yield from (([*line.split(), value], "") for value in values)


WRONG_WORDS = [
    ["--verison"],
    ["Compare"],
    [" "],
    ["run", ""],
    ["run", "qat", "clamp"],
    ["run", "../qat"],
    ["run", "qat\x1b[31m"],
    ["run", "qat", "--preset", ""],
    ["run", "qat", "--pixels", "int8"],
    ["run", "qat", "--observer", "none"],
    ["run", "qat", "--optimizer", "Adam"],
    ["run", "qat", "--schedule", "linear"],
    ["run", "qat", "--model", "\n"],
    ["run", "qat", "--track", ""],
    ["run", "qat", "--track", "wandb"],
    ["run", "qat", "--out"],
    ["run", "qat", "--per-tensor=yes"],
    ["compare", "--seeds", "2", "--seed", "2147483647"],
    ["compare", "qat", "", "--bits", "8"],
    ["compare", "--max", "3"],
    ["report"],
    ["report", ".", "."],
    ["diagnose"],
    ["list", "strategies"],
    ["list", "--jsno"],
    ["data"],
    ["data", ""],
    ["verify"],
    ["certify", "--json"],
    ["predict", "x.onnx"],
]


def test_bad_command_lines_are_one_visible_line_and_exit_code_2(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    cases = [*wrong_paths(tmp_path), *wrong_values(), *((words, "") for words in WRONG_WORDS)]
    before = sorted(tmp_path.iterdir())
    assert len(cases) > 150
    for arguments, message in cases:
        code = main(arguments)
        shown = capfd.readouterr()
        assert code == 2, arguments
        assert shown.out == "", arguments
        assert shown.err.startswith("qstrategies: error: ") and shown.err.count("\n") == 1, (
            arguments
        )
        assert shown.err.removesuffix("\n").isprintable(), arguments
        assert message in shown.err, (arguments, shown.err)
    assert sorted(tmp_path.iterdir()) == before


def run_with(arguments, stdout, stderr, unbuffered=""):
    command = [sys.executable, "-m", "qstrategies", *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    return subprocess.run(
        command, stdout=stdout, stderr=stderr, env=environment, text=True, timeout=120
    )


@pytest.mark.parametrize(
    ("arguments", "unbuffered"),
    [
        (["certify", "{model}", "--json"], ""),
        (["certify", "{model}"], "1"),
        (["compare", "--help"], ""),
    ],
)
def test_it_ends_without_a_word_where_nobody_reads_the_output(arguments, unbuffered, exported_file):
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = run_with(
        [item.format(model=exported_file) for item in arguments],
        write_end,
        subprocess.PIPE,
        unbuffered,
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (OUTPUT_CLOSED, "")


def test_it_ends_where_nobody_reads_the_errors():
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = run_with(["compair"], subprocess.PIPE, write_end)
    os.close(write_end)
    assert (done.returncode, done.stdout) == (OUTPUT_CLOSED, "")


def test_output_that_does_not_fit_on_the_disk_is_an_error(exported_file):
    with Path("/dev/full").open("w") as full:
        done = run_with(["certify", str(exported_file)], full, subprocess.PIPE)
    assert (done.returncode, done.stderr) == (2, "qstrategies: error: No space left on device\n")


def test_a_broken_pipe_of_something_else_is_an_error(capsys):
    def breaks():
        raise BrokenPipeError(32, "Broken pipe")

    assert guarded(breaks) == 2
    assert capsys.readouterr().err == "qstrategies: error: Broken pipe\n"


def test_what_an_onnx_file_says_is_shown_as_one_line(exported_file, tmp_path, capsys):
    model = onnx.load(str(exported_file))
    hostile = "\x1b[2J7\nexact\u202e"
    for item in model.metadata_props:
        if item.key == "labels":
            item.value = json.dumps([hostile] * 10)
        if item.key == "strategy":
            item.value = json.dumps(hostile)
    file = tmp_path / "a\x1b[31m\nb.onnx"
    onnx.save(model, str(file))
    Image.new("L", (28, 28)).save(tmp_path / "\x9b.png")
    assert main(["predict", str(file), str(tmp_path / "\x9b.png")], limited=True) == 0
    shown = capsys.readouterr()
    assert shown.out.count("\n") == shown.err.count("\n") == 1 and "ALTERED" in shown.err
    assert r"\x1b[2J7\nexact\u202e" in shown.out
    assert (shown.out + shown.err).replace("\n", "").isprintable()
    assert main(["certify", str(file)], limited=True) == 0
    assert (
        capsys.readouterr()
        .out.split("\n")[0]
        .endswith(r"a\x1b[31m\nb.onnx: ALTERED after its export")
    )


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
    assert {"strategies", "models", "datasets", "runtimes", "trackers", "schedulers"} == set(
        listing
    )
    assert all(item["summary"] for items in listing.values() for item in items)


def test_run_report_verify_and_predict_work_together(tmp_path, location, capsys):
    common = ["--dataset", "small_mnist", "--cache-dir", str(location.cache)]
    out = tmp_path / "runs"
    assert main(["run", "no_norm", *common, *SHORT, "--batch-size", "64", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "float baseline" in text and "no_norm" in text
    assert main(["report", str(out), "--json"]) == 0
    reported = json.loads(capsys.readouterr().out)
    assert [row["strategy"] for row in reported["rows"]] == [
        "float baseline",
        "no_norm small_mnist",
    ]
    (folder,) = out.glob("no_norm-*")
    assert (
        main(
            [
                "diagnose",
                str(folder),
                "--images",
                "64",
                "--cache-dir",
                str(location.cache),
                "--json",
            ]
        )
        == 0
    )
    assert "findings" in json.loads(capsys.readouterr().out)
    (model,) = out.glob("*/model.fast.onnx")
    assert (
        main(["verify", str(model), "--cache-dir", str(location.cache), "--json"], limited=True)
        == 0
    )
    assert json.loads(capsys.readouterr().out)["verdict"] == "same"


CHILD = (
    "import sys; sys.path.insert(0, {tests!r}); import conftest; from qstrategies.cli import "
    "main; sys.exit(main(sys.argv[1:]))"
)


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
    limit = (
        100_000  # bytes a file may grow to: the write of the trained model fails, as on a full disk
    )
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
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # a background job of a shell inherits that it is ignored
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
