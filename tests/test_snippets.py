"""What README and docs/ show is run here, as far as that takes seconds.

Not run: what trains on whole data sets (``make run``, ``compare``, ``experiments/``), what installs
(pip, npm), what starts servers and clusters, and shell redirections; of those every command line is
read by the parser, and every file that it names has to be there. The snippets of your_model.md,
your_data.md, your_loop.md and exported/README.md, and the clients of deploy.md, have tests of their
own.
"""

import ast
import configparser
import importlib
import json
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import qstrategies as qs
from qstrategies.cli import main, parser

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
LISTED = re.compile(r"`(qstrategies [a-z][^`]*)`")
ELSEWHERE = {"your_model.md", "your_data.md", "your_loop.md"}
"""Pages whose Python has a test of its own."""


def snippets(name, language="python"):
    text = (ROOT / name).read_text()
    return [code for kind, code in BLOCK.findall(text) if kind == language]


def shown_commands():
    """Every command line of ``qstrategies`` in a block or between backticks, without what is said
    of it."""
    found = {}
    for page in PAGES:
        text = page.read_text()
        lines = [
            line for kind, code in BLOCK.findall(text) if not kind for line in code.split("\n")
        ]
        wrapped = [" ".join(listed.split()) for listed in LISTED.findall(text)]
        for line in [*lines, *wrapped]:
            command = re.match(r"(?:[A-Z_]+=\S+ )?qstrategies ([a-z].*)", line)
            if command:
                bare = re.split(r" {2,}| +#| > ", command[1])[0]
                found.setdefault(bare.replace("[", "").replace("]", ""), page.name)
    return sorted(found)


REQUIRED = {"run": "no_norm", "report": "runs", "diagnose": "runs/RUN", "work": "runs"}
"""What a command cannot do without, where a sentence only names it."""


@pytest.mark.parametrize("command", shown_commands())
def test_every_command_is_one_that_there_is(command):
    words = shlex.split(command)
    if len(words) == 1:
        words += REQUIRED.get(words[0], "").split()
    assert parser().parse_args(words).command


def test_every_file_that_a_command_names_is_there():
    named = re.compile(
        r"(?:python|node|--prefix) ((?:experiments|examples|qstrategies|tests|tools)/\S+?)[`\s]"
    )
    files = {file for page in PAGES for file in named.findall(page.read_text())}
    assert len(files) > 15
    assert [file for file in sorted(files) if not (ROOT / file).exists()] == []


def test_the_notebook_names_what_is_there():
    """CI runs it, after the tests."""
    cells = json.loads((ROOT / "experiments/walkthrough.ipynb").read_text())["cells"]
    code = "\n".join("".join(each["source"]) for each in cells if each["cell_type"] == "code")
    tree, modules = ast.parse(code), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("qstrategies"):
            exec(ast.unparse(node), modules)
    assert "plots" in modules
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = modules.get(node.value.id)
            assert not isinstance(owner, ModuleType) or hasattr(owner, node.attr), node.attr


def test_every_extra_and_make_target_that_is_named_is_there():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    texts = [page.read_text() for page in PAGES]
    extras = {name for text in texts for name in re.findall(r"(?:qstrategies|\.)\[(\w+)\]'", text)}
    assert extras and extras <= set(setup["options.extras_require"])
    targets = {name for text in texts for name in re.findall(r"^`?make (\w+)", text, re.M)}
    rules = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    assert targets and targets <= set(rules)


def test_the_ten_lines_of_readme_give_the_same_bits(tmp_path, monkeypatch, capsys):
    """On a small network; tools/newcomer.py runs them on README's."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    images = torch.rand(4, 3, 16, 16)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(), nn.AdaptiveAvgPool2d(1)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 10)).eval()
    (code,) = snippets("README.md")
    exec(
        code,
        {
            "model": model,
            "calibration_batches": [images],
            "example_input": images,
            "inputs": images,
        },
    )
    assert "the same bits everywhere" in capsys.readouterr().out


EXPECTED = "Model(52 layers; ...)\n...\nx86  module  16  100.00%  0\n...\nthe same bits\n"
ROWS = "fbgemm  module  16  100.00%  0\nx86  module  16  100.00%  0\ntract  a.onnx  16  {}%  {}\n"


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        ("Model(52 layers; 3 bytes)\n" + ROWS.format("100.00", 0) + "the same bits\n", None),
        (
            "Model(51 layers; 3 bytes)\n" + ROWS.format("100.00", 0) + "the same bits\n",
            "It printed",
        ),
        ("Model(52 layers; 3 bytes)\n" + ROWS.format("100.00", 0) + "DIFFERENT\n", "It printed"),
        (
            "Model(52 layers; 3 bytes)\n" + ROWS.format("93.75", 1) + "the same bits\n",
            "bits in tract:",
        ),
    ],
)
def test_a_newcomer_is_stuck_where_readme_shows_something_else(printed, said, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    newcomer = importlib.import_module("newcomer")
    if said is None:
        newcomer.check_output(EXPECTED, printed)
    else:
        with pytest.raises(newcomer.StuckError, match=said):
            newcomer.check_output(EXPECTED, printed)


def test_the_first_result_of_the_site_is_the_same_bits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = snippets("docs/index.md")
    exec(code, {})
    assert "the same bits everywhere" in capsys.readouterr().out
    assert main(["certify", "model.onnx"], limited=True) == 0


def test_the_snippets_of_your_network_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    images = torch.rand(8, 1, 8, 8)
    names = {
        "qs": qs,
        "torch": torch,
        "cross_entropy": cross_entropy,
        "model": nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)),
        "calibration_batches": [images],
        "example_input": images,
        "inputs": images,
        "loader": [(images, torch.arange(8) % 3)],
    }
    for code in snippets("docs/your_network.md"):
        exec(code, names)
    assert "the same bits everywhere" in capsys.readouterr().out
    assert names["trainee"].steps == 1


def test_the_snippet_of_microcontrollers_writes_both_files(tmp_path, monkeypatch):
    pytest.importorskip("tflite", reason="needs the extra tflite")
    monkeypatch.chdir(tmp_path)
    images = torch.rand(8, 1, 8, 8)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    (code,) = snippets("docs/microcontrollers.md")
    exec(code, {"qs": qs, "model": model, "batches": [images], "example": images})
    assert (tmp_path / "model.tflite").is_file() and (tmp_path / "model.onnx").is_file()


def test_the_snippet_of_commands_reads_a_record(records, tmp_path, monkeypatch, capsys):
    """It would train on all of MNIST; the record is that of a short run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(qs, "run_experiment", lambda *_: records["qat"], raising=False)
    (code,) = snippets("docs/commands.md")
    exec(code, {})
    shown = capsys.readouterr().out
    assert "onnxruntime-all 1" in shown and "qat-w4-s1" in shown


def test_the_options_file_of_the_page_is_taken(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (content,) = snippets("docs/config.md", "toml")
    (tmp_path / "comparison.toml").write_text(content)
    assert main(["compare", "--config", "comparison.toml", "--dry-run"]) == 0
    assert "runs: 0 of 30 are kept" in capsys.readouterr().out


def test_no_page_has_python_that_no_test_runs():
    run_here = {"README.md", "index.md", "your_network.md", "microcontrollers.md", "commands.md"}
    with_code = {page.name for page in PAGES if snippets(page.relative_to(ROOT))}
    assert with_code <= run_here | ELSEWHERE
