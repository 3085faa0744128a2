"""Small data and one shared set of finished runs: every registered strategy, trained for
seconds."""

from __future__ import annotations

import fcntl
import functools
import gc
import importlib
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import onnxscript
import pytest
import torch

from qstrategies import plugins
from qstrategies.datasets import DATASETS
from qstrategies.datasets.base import Location, Split
from qstrategies.datasets.mnist import MNIST
from qstrategies.experiment.comparison import DEFAULT_STRATEGIES, run_all
from qstrategies.experiment.workspace import Workspace
from qstrategies.models import MODELS
from qstrategies.pixels import to_input
from qstrategies.records import ExperimentConfig, RunRecord, TrainingConfig
from qstrategies.strategies import STRATEGIES, ptq_best

SIZES = {"train": 1024, "validation": 200, "test": 200}


@DATASETS.register("small_mnist")
class SmallMNIST(MNIST):
    """The first images of each split of MNIST, for tests."""

    name = "small_mnist"
    summary = "a part of MNIST"

    @property
    def fingerprint(self) -> str:
        return "small" + super().fingerprint

    @cached_property
    def splits(self) -> dict[str, Split]:
        whole = super().splits
        return {
            name: Split(name, whole[name].images[:size], whole[name].labels[:size])
            for name, size in SIZES.items()
        }


SHORT = TrainingConfig(epochs=1, batch_size=32, learning_rate=3e-3)
SMALL = ExperimentConfig(
    strategy="no_norm",
    dataset="small_mnist",
    training=SHORT,
    tuning=replace(SHORT, learning_rate=1e-3),
    checks="full",
)


def small(strategy: str, **changes: object) -> ExperimentConfig:
    """The short test configuration of ``strategy``."""
    return replace(SMALL, strategy=strategy, **changes)


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What is registered in a test is forgotten after it, and what was imported from its files."""
    for each in plugins.REGISTRIES.values():
        each.names()
        monkeypatch.setattr(each, "_items", dict(each._items))
        monkeypatch.setattr(each, "_origins", dict(each._origins))
    monkeypatch.setattr(plugins, "_used", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


ALWAYS_THE_SAME = {
    "torch.onnx._internal.exporter._schemas": "op_signature_from_function",
    "torch._export.utils": "_materialize_cpp_cia_ops",
}


@pytest.fixture(autouse=True, scope="session")
def read_once() -> Iterator[None]:
    """What torch's exporter works out anew at every call, from the source of its 500 functions and
    from all operators that there are, which is most of its time, is worked out once."""
    kind = onnxscript.values.TracedOnnxFunction
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "function_ir", property(functools.cache(kind.function_ir.fget)))
        for place, name in ALWAYS_THE_SAME.items():
            module = importlib.import_module(place)
            if hasattr(module, name):  # private, and for speed only
                patch.setattr(module, name, functools.cache(getattr(module, name)))
        yield


def pytest_collection_finish() -> None:
    """What is imported stays: the collector of garbage need not look through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def location(tmp_path_factory: pytest.TempPathFactory) -> Location:
    return Location(cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def mnist(location: Location) -> dict[str, Split]:
    return MNIST(location).splits


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory, location: Location) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("runs"), location)


@pytest.fixture(scope="session")
def run_once(
    workspace: Workspace, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Callable[[Sequence[str]], list[RunRecord]]:
    """Full runs of strategies, by the first that asks for them: all processes of a test run get
    copies."""
    own = tmp_path_factory.getbasetemp()
    shared = (own if worker_id == "master" else own.parent) / "shared"
    shared.mkdir(exist_ok=True)

    def of(names: Sequence[str]) -> list[RunRecord]:
        with (shared / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            folder = shared / "runs"
            runs = run_all([small(name) for name in names], replace(workspace, folder=folder))
            shutil.copytree(folder, workspace.folder, dirs_exist_ok=True)
        return runs

    return of


@pytest.fixture(scope="session")
def records(run_once: Callable[[Sequence[str]], list[RunRecord]]) -> dict[str, RunRecord]:
    """One full run of every strategy of the default comparison."""
    return dict(zip(DEFAULT_STRATEGIES, run_once(DEFAULT_STRATEGIES), strict=True))


OWN_STRATEGIES = STRATEGIES.names()


@pytest.fixture(scope="session")
def exported(run_once: Callable[[Sequence[str]], list[RunRecord]], workspace: Workspace) -> Path:
    """A portable ONNX file."""
    (record,) = run_once(["no_norm"])
    return workspace.folder / record.config.run_id / "model.onnx"


@pytest.fixture
def cnn(mnist: dict[str, Split]) -> torch.nn.Module:
    """The shared network with BN statistics of real images, in eval mode."""
    torch.manual_seed(0)
    model = MODELS.get("cnn")()
    model(to_input(mnist["train"].images[:256]))
    return model.eval()


@pytest.fixture
def quick_ptq_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without AdaRound among what it chooses from, which takes nearly all of its time."""
    stages = [[part for part in stage if part[0] != "adaround"] for stage in ptq_best.STAGES]
    monkeypatch.setattr(ptq_best, "STAGES", stages)
