"""Code counts by what it does: its own source and all that it uses from the same authors, and
nothing else."""

import functools
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qstrategies import source_code
from qstrategies.experiment import dependencies
from qstrategies.models import MODELS
from qstrategies.strategies import STRATEGIES

NET = """\
'''A net.'''
from typing import TYPE_CHECKING
import math, torch
from blocks import head
if TYPE_CHECKING:
    import collections

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = head(2)
"""
BLOCKS = "from parts.leaf import WIDTH\ndef head(n):\n    return n * WIDTH\n"
LEAF = "WIDTH = 3\n"


@pytest.fixture
def digest(tmp_path, monkeypatch):
    """The hash of Net, as a new process that finds these three files would see it."""
    monkeypatch.syspath_prepend(tmp_path)

    def look(net=NET, blocks=BLOCKS, leaf=LEAF):
        (tmp_path / "parts").mkdir(exist_ok=True)
        for name, text in (("net.py", net), ("blocks.py", blocks), ("parts/leaf.py", leaf)):
            (tmp_path / name).write_text(text)
        forget()
        return source_code.of_object(importlib.import_module("net").Net)

    yield look
    forget()


def forget():
    for name in ("net", "blocks", "parts", "parts.leaf"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    source_code._module.cache_clear()
    source_code._path.cache_clear()


def test_what_is_imported_from_the_user_counts_at_any_depth_and_packages_by_name(digest):
    first = digest()
    assert digest() == first and "torch" in first.packages and "blocks" not in first.packages
    changed = [
        digest(net=NET.replace("head(2)", "head(1)")),
        digest(blocks=BLOCKS.replace("n * WIDTH", "n + WIDTH")),
        digest(leaf="WIDTH = 4\n"),
    ]
    assert len({found.digest for found in [first, *changed]}) == 4


def test_comments_docstrings_layout_and_hints_do_not_count(digest):
    written = NET.replace("A net.", "The net.").replace("import collections", "import abc")
    written = written.replace("self.head =", "self.head  =   ").replace(
        "torch.nn.Module):", "torch.nn.Module):  # here"
    )
    assert written != NET and digest(net=written) == digest()


def test_code_that_was_broken_after_its_import_counts_as_changed(digest):
    before = digest()
    Path(sys.modules["parts.leaf"].__file__).write_text("WIDTH = (")
    net = sys.modules["net"].Net
    assert source_code.of_object(net) == before, "as it was imported"
    source_code._module.cache_clear()
    assert source_code.of_object(net) != before


SCRIPT = """\
import functools, numpy
from qstrategies import source_code
SCALE = {scale}
WORDS = {{"a", "b", "c"}}
def helper(x):
    return x in {{"a", "b"}} or x {sign} SCALE
class Base:
    rate = {rate}
class Net(Base):
    def forward(self, x):
        return [helper(y) for y in x if y in WORDS], numpy.abs(x)
SEEDS = {seeds}
print(source_code.of_object(Net).digest)
"""
USUAL = {"scale": 2, "sign": "*", "rate": 0.5, "seeds": 1}


def run_script(tmp_path, **changes):
    (tmp_path / "script.py").write_text(SCRIPT.format(**{**USUAL, **changes}))
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_of_a_script_only_what_the_class_uses_counts(tmp_path):
    """A notebook and a script also say what to run: more seeds there are no other model."""
    usual = run_script(tmp_path)
    assert run_script(tmp_path, seeds=5) == usual
    changed = [
        run_script(tmp_path, **change) for change in ({"scale": 3}, {"sign": "+"}, {"rate": 0.6})
    ]
    assert len({usual, *changed}) == 4


def test_a_partial_is_its_function_and_its_arguments(digest):
    digest()
    net, blocks = sys.modules["net"].Net, sys.modules["blocks"].head
    partials = [
        functools.partial(net),
        functools.partial(net, 1),
        functools.partial(net, n=1),
        functools.partial(net, n=2),
    ]
    assert (
        len({source_code.of_object(thing) for thing in [*partials, functools.partial(blocks)]}) == 5
    )


def test_own_models_and_strategies_differ_and_know_their_bases():
    kinds = [STRATEGIES.get(name) for name in STRATEGIES.names()] + [
        MODELS.get(name) for name in MODELS.names()
    ]
    parts = [getattr(kind, "parts", ()) for kind in kinds]  # compositions share their own code
    found = {
        (source_code.of_object(kind).digest, own) for kind, own in zip(kinds, parts, strict=True)
    }
    assert len(found) == len(kinds)


def test_of_this_package_what_computes_counts_and_what_shows_does_not(monkeypatch):
    read = []
    real = source_code._module
    monkeypatch.setattr(
        source_code, "_module", lambda path, name: read.append(name) or real(path, name)
    )
    source_code.of_modules([dependencies.RUN, *dependencies.OPERATORS])
    assert {
        "qstrategies.quantization.scales",
        "qstrategies.export.onnx_writer",
        "qstrategies.operators.pooling",
        "qstrategies.training.loop",
    } <= set(read)
    assert not {name for name in read if name.split(".")[1] in source_code.GROUND}


def test_pytorchs_own_functions_are_known_by_their_names_and_its_version(monkeypatch):
    functional = torch.nn.functional
    monkeypatch.setattr(source_code, "_module", pytest.fail)
    assert source_code.of_object(functional.cross_entropy).packages == {"torch"}
    assert source_code.identity(functional.l1_loss) != source_code.identity(functional.mse_loss)
