"""Every experiment of the list exists and is thin; one of them runs; the notebook was run as it
stands."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from qstrategies.datasets import DATASETS

FOLDER = Path(__file__).parent.parent / "experiments"
STRATEGIES = [
    "no_norm",
    "no_norm_1_epoch",
    "clamping",
    "weight_norm",
    "finetune",
    "qat",
    "qat_scratch",
    "qat_weight_norm",
    "qat_clamp",
]
NAMES = ["data", *STRATEGIES, "bit_widths", "summary", "resnet8", "depthwise", "ds_cnn"]


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_is_a_thin_script_that_compiles(name):
    text = (FOLDER / f"{name}.py").read_text()
    compile(text, name, "exec")
    assert len(text.splitlines()) <= 32 and text.startswith('"""')


def test_an_experiment_prints_its_table_and_leaves_model_and_pictures(
    tmp_path, location, monkeypatch, capsys
):
    script = str(FOLDER / "no_norm_1_epoch.py")
    monkeypatch.setenv("QSTRATEGIES_CACHE", str(location.cache))
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    monkeypatch.setattr(sys, "argv", [script, "--quick", "--seed", "1", "--out", str(tmp_path)])
    with DATASETS.lent("mnist", DATASETS.get("small_mnist")), pytest.raises(SystemExit) as end:
        runpy.run_path(script, run_name="__main__")
    shown = capsys.readouterr()
    assert not end.value.code, shown.err
    assert "no_norm" in shown.out and "float baseline" in shown.out
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "accuracy_against_bits.png",
        "learning_curves.png",
        "weight_histograms.png",
    }
    assert len(list(tmp_path.glob("*/model*.onnx"))) == 2


def test_an_experiments_bad_input_ends_with_code_2(tmp_path):
    done = subprocess.run(
        [sys.executable, FOLDER / "qat.py", "--epochs", "0", "--out", tmp_path],
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode == 2
        and done.stderr.count("\n") == 1
        and "epochs 0 is out of range" in done.stderr
    )


def test_the_notebook_shows_what_its_cells_gave_in_order():
    cells = [
        cell
        for cell in json.loads((FOLDER / "walkthrough.ipynb").read_text())["cells"]
        if cell["cell_type"] == "code"
    ]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert len(outputs) >= 10 and not any(
        output["output_type"] == "error" or output.get("name") == "stderr" for output in outputs
    )
