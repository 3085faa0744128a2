"""What a user brings in a file or a package of their own is found, shown and, if it is wrong, named."""

import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

from qstrategies import plugins, registry
from qstrategies.cli import main
from qstrategies.datasets import DATASETS
from qstrategies.errors import InputError
from qstrategies.models import MODELS
from qstrategies.registry import Registry

EXPORTED = str(Path(__file__).parent.parent / "exported" / "no_norm.onnx")
THINGS = """\
import torch
import qstrategies as qs
from beside import WIDTH
from qstrategies.datasets.mnist import MNIST
@qs.models.register("mynet")
class Net(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(784, WIDTH))

@qs.datasets.register("mydata")
class Data(MNIST):
    '''My own digits.'''
    summary = ""

@qs.strategies.register("mine")
class Mine(qs.strategies.Strategy):
    summary = "nothing at all"

assert isinstance(Net, type) and isinstance(Data, type) and isinstance(Mine, type)
"""
THING = """
import qstrategies as qs
qs.models.register("{}")(int)
"""


@pytest.fixture
def bring(tmp_path, registries):
    """Writes files of a user; what they register is forgotten after the test."""

    def write(text=THINGS, name="my_things.py"):
        (tmp_path / "beside.py").write_text("WIDTH = 10\n")
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_a_file_brings_models_datasets_and_strategies_and_list_says_from_where(bring, capsys):
    path = bring()
    assert main(["list", "--use", str(path), "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    found = {kind: {item["name"]: item for item in listing[kind]} for kind in listing}
    assert found["models"]["mynet"]["origin"] == f"{path}:5"
    assert found["datasets"]["mydata"] | {"origin": ""} == {
        "name": "mydata", "summary": "My own digits.", "group": "", "paper": "", "options": "", "origin": "",
    }  # fmt: skip
    assert found["strategies"]["mine"]["origin"] == f"{path}:15"
    assert found["models"]["cnn"]["origin"] == "qstrategies"
    assert main(["list", "--use", str(path)]) == 0
    shown = capsys.readouterr().out
    assert f"from {path}:5" in shown and "from qstrategies" not in shown


def test_another_process_uses_what_was_used_and_what_was_imported(bring, monkeypatch):
    first, second = (
        bring("import second\n" + THING.format("one")),
        bring(THING.format("two"), "second.py"),
    )
    for path in (first, second):  # the second was imported by the first
        plugins.use(path)
    assert plugins.used_elsewhere([(MODELS, "one"), (MODELS, "two"), (MODELS, "cnn")]) == (
        str(first),
        str(second),
    )
    monkeypatch.setattr(plugins, "_used", [])
    assert plugins.used_elsewhere([(MODELS, "two"), (MODELS, "cnn")]) == (str(second),)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(second), raising=False)
    with pytest.raises(
        InputError, match="'two' is known to this process only: put it into a file of"
    ):
        plugins.used_elsewhere([(MODELS, "two")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import qstrategies\n", "{path}: it registers nothing: decorate what it defines, as "),
        ("\nx = 1 +\n", "{path}, line 2: SyntaxError: invalid syntax"),
        ("\n\nx = unknown\n", "{path}, line 3: NameError: name 'unknown' is not defined"),
        ("def f():\n    import numpyy\nf()\n", "{path}, line 2: ModuleNotFoundError: No module named 'numpyy'"),
        ("import json\njson.loads('{{')\n", "{path}, line 2: JSONDecodeError: "),
        ("import sys\nsys.exit('no')\n", "{path}, line 2: SystemExit: no"),
        ("from . import other\n", "{path}, line 1: ImportError: attempted relative import"),
        (
            "import qstrategies as qs\nqs.models.register('cnn')(int)\n",
            "{path}, line 2: model 'cnn' is registered twice, by qstrategies and by {path}:2: give one another name",
        ),
    ],
)  # fmt: skip
def test_a_file_that_does_not_do_is_one_line_with_the_place(bring, text, message, capsys):
    path = bring(text.replace("{{", "{"))
    for _ in range(2):  # and nothing of it stays
        assert main(["list", "--use", str(path)]) == 2
        shown = capsys.readouterr()
        assert shown.out == "" and shown.err.count("\n") == 1
        assert shown.err.startswith(f"qstrategies: error: {message.format(path=path)}")


def test_an_error_in_a_helper_is_named_where_it_is(bring, capsys):
    path = bring("import broken\n")
    (path.parent / "broken.py").write_text("\n1 / 0\n")
    assert main(["list", "--use", str(path)]) == 2
    helper = path.parent / "broken.py"
    assert (
        f"error: {helper}, line 2: ZeroDivisionError: division by zero" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.py", "no such file: "),
        (".", "is a folder"),
        ("things.txt", "is no Python file: expected .py"),
        ("json.py", "has the name of the module 'json'"),
        ("a.b.py", "is no name of a module: give it another without dots"),
    ],
)
def test_what_is_no_file_to_import_is_refused(bring, name, message, capsys):
    folder = bring().parent
    if name not in ("none.py", "."):
        (folder / name).write_text("pass")
    assert main(["list", "--use", str(folder / name)]) == 2
    shown = capsys.readouterr().err
    assert message in shown and shown.count("\n") == 1


def test_what_fails_registers_nothing_and_mended_it_does(bring):
    path = bring(THINGS + "1 / 0\n")
    with pytest.raises(InputError, match="ZeroDivisionError"):
        plugins.use(path)
    assert "mynet" not in MODELS.names() and plugins.used() == ()
    bring(THINGS)
    plugins.use(path)
    plugins.use(path)  # again is no second time
    assert "mynet" in MODELS.names() and plugins.used() == (str(path),)


def test_a_module_of_a_package_keeps_its_relative_imports(bring):
    path = bring("from .parts import WIDTH\n" + THINGS, "project/things.py")
    (path.parent / "__init__.py").write_text("")
    (path.parent / "parts.py").write_text("WIDTH = 3\n")
    plugins.use(path)
    assert MODELS.get("mynet").__module__ == "project.things"


def test_what_a_file_prints_is_no_part_of_the_answer(bring, capsys):
    path = bring("print('hello')\n" + THINGS)
    assert main(["list", "--use", str(path), "--json"]) == 0
    shown = capsys.readouterr()
    json.loads(shown.out)
    assert shown.err == "hello\n"


def test_a_process_of_its_own_sees_the_same(bring, capfd):
    runtime = """
import numpy as np
import qstrategies as qs
@qs.runtimes.register("zeros")
class Zeros(qs.Runtime):
    def __init__(self, path): pass
    def run(self, images): return np.zeros((len(images), 10), np.float32)
"""
    path = bring(runtime)
    main(["verify", EXPORTED, "--use", str(path), "--runtime", "zeros", "--json"])
    assert [check["runtime"] for check in json.loads(capfd.readouterr().out)["checks"]] == ["zeros"]


def test_a_run_is_made_diagnosed_and_reported_with_the_file_and_says_how_again(
    bring, tmp_path, location, monkeypatch, capsys
):
    small = "from conftest import SmallMNIST as MNIST\n"
    monkeypatch.chdir(tmp_path)
    bring(THINGS.replace("from qstrategies.datasets.mnist import MNIST\n", small))
    command = "run mine --use my_things.py --model mynet --dataset mydata"
    common = ["--cache-dir", str(location.cache)]
    assert main([*command.split(), *common, "--quiet", "--epochs", "1", "--out", "out"]) == 0
    (first, *_), run = sorted(Path("out").glob("mine-*/record.json")), "run mine --use my_things.py"
    assert f"{run} --model mynet --dataset mydata" in Path("out/report.html").read_text()
    assert main(["report", "out"]) == 0
    assert main(["diagnose", str(first.parent), *common, "--use", "my_things.py"]) == 0
    capsys.readouterr()
    monkeypatch.setattr(plugins, "_used", [])
    assert main(["diagnose", str(first.parent), *common]) == 2
    assert "was made with 'my_things.py': give it with --use" in capsys.readouterr().err


def plug(monkeypatch, group, name, value):
    point = EntryPoint(name, value, group)
    vars(point)["dist"] = SimpleNamespace(name="elsewhere", version="1.5")
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [point] if group == point.group else []
    )


@pytest.fixture
def fresh():
    """A registry of models that has not looked around yet."""
    return Registry("model", "qstrategies.trackers")


def test_an_entry_point_gives_the_thing_itself_under_its_own_name(fresh, monkeypatch):
    plug(monkeypatch, "qstrategies.model", "ordered", "collections:OrderedDict")
    assert fresh.get("ordered").__name__ == "OrderedDict"
    assert fresh.origin("ordered") == "elsewhere 1.5"


def test_an_entry_point_may_be_a_module_whose_decorators_register(fresh, monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules["sys"], "fresh", fresh, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "plugged.py").write_text("import sys\nsys.fresh.register('mine')(int)\n")
    plug(monkeypatch, "qstrategies.model", "anything", "plugged")
    assert fresh.get("mine") is int and fresh.origin("mine") == "elsewhere 1.5"
    assert "anything" not in fresh.names()


@pytest.mark.parametrize("value", ["nowhere:thing", "collections:nothing"])
def test_an_entry_point_that_does_not_load_is_named(fresh, monkeypatch, value):
    plug(monkeypatch, "qstrategies.model", "ordered", value)
    for _ in range(2):
        with pytest.raises(InputError, match="model 'ordered' of elsewhere 1.5 cannot be loaded: "):
            fresh.names()


def test_a_dataset_that_cannot_be_made_is_one_line_with_the_place(bring, tmp_path, capsys):
    path = bring(THINGS + "@qs.datasets.register('none')\ndef none():\n    return [][1]\n")
    assert main(["data", "show", "--use", str(path), "--dataset", "none"]) == 2
    message = f"dataset 'none' cannot be made: {path}, line 22: IndexError: list index out of range"
    assert message in capsys.readouterr().err


def test_a_model_that_cannot_be_built_is_one_line_with_the_place(bring, tmp_path, location, capsys):
    path = bring(THINGS.replace("super().__init__(", "super().__init__(undefined, "))
    out = ["--out", str(tmp_path / "out"), "--cache-dir", str(location.cache), "--quiet"]
    assert main(["run", "no_norm", "--use", str(path), "--model", "mynet", *out]) == 2
    message = f"model 'mynet' cannot be built: {path}, line 8: NameError: name 'undefined' is not"
    assert message in capsys.readouterr().err
    assert DATASETS.get("mnist")
