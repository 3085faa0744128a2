"""What a run depends on is in its key, wherever the user keeps it: things in files of one's own,
their helpers, data and checkpoints."""

import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qstrategies import plugins, source_code
from qstrategies.datasets.base import Location
from qstrategies.experiment import dependencies
from qstrategies.experiment.dependencies import Inputs, changed
from qstrategies.experiment.environment import package_version, package_versions
from qstrategies.experiment.workspace import Workspace
from qstrategies.records import ExperimentConfig

THINGS = """\
from pathlib import Path

import numpy as np
import PIL
import qstrategies as qs
import torch

from layers import head
from penalty import weight

@qs.models.register("mynet")
class Net(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Flatten(), head(2))

@qs.strategies.register("mine")
class Mine(qs.Strategy):
    course = qs.strategies.base.Course(parent="no_norm", schedule="tuning")
    def loss(self, model, step):
        return weight * sum(p.square().sum() for p in model.parameters())

@qs.datasets.register("mydata")
def mydata():
    arrays = np.load(Path(__file__).parent / "data.npz")
    return qs.datasets.from_arrays(arrays["x"], arrays["y"], augment=flip)

def flip(x):
    return x.flip(-1)
"""
LAYERS = "import torch\ndef head(n):\n    return torch.nn.Linear(16, n)\n"
PENALTY = "from numbers_of_mine import weight\n"
NUMBERS = "weight = 0.1\n"


@pytest.fixture
def look(tmp_path, monkeypatch):
    """The inputs of a run as a new process would see them, with some of the user's files changed."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    registries = plugins.REGISTRIES.values()
    kept = [(each, each.names() and dict(each._items), dict(each._origins)) for each in registries]
    modules = set(sys.modules)

    def forget():
        for registry, items, origins in kept:
            registry._items, registry._origins = dict(items), dict(origins)
        for name in set(sys.modules) - modules:
            if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]
        plugins._used.clear()
        source_code._module.cache_clear()
        source_code._path.cache_clear()

    def inputs(things=THINGS, layers=LAYERS, numbers=NUMBERS, pixel=0, bias=0.0):
        forget()
        texts = {"things": things, "layers": layers, "penalty": PENALTY, "numbers_of_mine": numbers}
        for name, text in texts.items():
            (tmp_path / f"{name}.py").write_text(text)
        x = np.zeros((60, 1, 4, 4), np.uint8)
        x[0] = pixel
        np.savez(tmp_path / "data.npz", x=x, y=np.arange(60) % 2)
        weights = {"1.weight": torch.zeros(2, 16), "1.bias": torch.full((2,), bias)}
        save_file(weights, tmp_path / "weights.safetensors")
        plugins.use(tmp_path / "things.py")
        config = ExperimentConfig(
            strategy="mine",
            model="mynet",
            dataset="mydata",
            checkpoint=str(tmp_path / "weights.safetensors"),
        )
        found = Inputs(Workspace(tmp_path, Location(cache=tmp_path)).dataset).of_run(config)
        return {name.replace(str(tmp_path), ""): value for name, value in found.items()}

    yield inputs
    forget()


CODE = "code of model 'mynet', code of strategy 'mine'"
LAYER = "layers or initial weights of model 'mynet'"
DATA = "data of 'mydata'"


BEFORE: dict[str, str] = {}
"""Of the files as they stand above, looked at once."""


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ({"layers": LAYERS + "head = head\n"}, f"{CODE}, {DATA} changed since"),
        ({"layers": LAYERS.replace("head(n):", "head(n):  # here")}, None),
        ({"numbers": "weight = 0.2\n"}, f"{CODE}, {DATA} changed since"),
        ({"layers": LAYERS.replace("n)\n", "n, False)\n")}, f"{LAYER}, {CODE}, {DATA} changed since"),
        ({"things": THINGS.replace("flip(-1)", "flip(-2)")}, f"{CODE}, {DATA} changed since"),
        ({"pixel": 1}, f"{DATA} changed since"),
        ({"bias": 1.0}, "contents of the checkpoint changed since"),
        ({}, None),
    ],
)  # fmt: skip
def test_what_changed_is_named_and_nothing_else(look, edit, reason):
    if not BEFORE:
        BEFORE.update(look())
    told = changed(BEFORE, look(**edit))
    if reason is not None:
        reason = ", ".join(sorted(reason.removesuffix(" changed since").split(", ")))
        told = ", ".join(sorted(told.removesuffix(" changed since").split(", ")))
    assert told == reason


def test_versions_of_packages_count_by_whatever_name_they_are_imported(look, monkeypatch):
    before = look()
    assert before["pillow"] == package_version("pillow") and "torch" in before
    assert package_versions("PIL") == {"pillow": package_version("pillow")}
    assert package_versions("no_such_module") == {}
    monkeypatch.setattr(dependencies, "package_versions", lambda name: {"pillow": "99"})
    assert changed(before, look()) == "pillow changed since"
