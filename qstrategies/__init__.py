"""Compare quantization strategies by what they do to the int8 model. Importing this loads no
torch."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # what the package offers: said here once, loaded when it is asked for
    from qstrategies import datasets as datasets
    from qstrategies import models as models
    from qstrategies import runtimes as runtimes
    from qstrategies import schedulers as schedulers
    from qstrategies import strategies as strategies
    from qstrategies import trackers as trackers
    from qstrategies.certificate import certify as certify
    from qstrategies.datasets import DATASETS as DATASETS
    from qstrategies.datasets.base import CalibrationSet as CalibrationSet
    from qstrategies.datasets.base import Dataset as Dataset
    from qstrategies.datasets.base import Location as Location
    from qstrategies.diagnosis import diagnose as diagnose
    from qstrategies.errors import InputError as InputError
    from qstrategies.execution.crosscheck import cross_check as cross_check
    from qstrategies.experiment.comparison import plan as plan
    from qstrategies.experiment.comparison import run_all as run_all
    from qstrategies.experiment.runs import run_experiment as run_experiment
    from qstrategies.experiment.workspace import Workspace as Workspace
    from qstrategies.export.c99.c_export import export_c as export_c
    from qstrategies.export.onnx_export import export_onnx as export_onnx
    from qstrategies.export.saved import load as load
    from qstrategies.export.saved import save as save
    from qstrategies.export.tflite.tflite_export import export_tflite as export_tflite
    from qstrategies.models import MODELS as MODELS
    from qstrategies.onnx_model import from_onnx as from_onnx
    from qstrategies.pt2e import from_pt2e as from_pt2e
    from qstrategies.records import ExperimentConfig as ExperimentConfig
    from qstrategies.records import QuantizationConfig as QuantizationConfig
    from qstrategies.records import RunRecord as RunRecord
    from qstrategies.records import TrainingConfig as TrainingConfig
    from qstrategies.report.table import summarise as summarise
    from qstrategies.runtimes import RUNTIMES as RUNTIMES
    from qstrategies.runtimes.base import Runtime as Runtime
    from qstrategies.specification.document import specify as specify
    from qstrategies.specification.vectors import golden_vectors as golden_vectors
    from qstrategies.strategies import STRATEGIES as STRATEGIES
    from qstrategies.strategies.base import Option as Option
    from qstrategies.strategies.base import Strategy as Strategy
    from qstrategies.tasks import Task as Task
    from qstrategies.training.post_training import quantize as quantize
    from qstrategies.training.trainee import Trainee as Trainee
    from qstrategies.training.trainee import prepare as prepare
    from qstrategies.training.trainee import resume as resume
    from qstrategies.whole_comparison import compare as compare


def _homes() -> dict[str, str]:
    """The module of every name above, read from this file."""
    tree = ast.parse(Path(__file__).read_bytes())
    block = next(statement for statement in tree.body if isinstance(statement, ast.If))
    lines = [line for line in block.body if isinstance(line, ast.ImportFrom)]
    return {line.names[0].name: str(line.module) for line in lines}


_HOMES = _homes()
__all__ = list(_HOMES)


def __dir__() -> list[str]:
    """For completion at a prompt, before anything is loaded."""
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOMES[name] == __name__:
        return importlib.import_module(f"{__name__}.{name}")
    return getattr(importlib.import_module(_HOMES[name]), name)
