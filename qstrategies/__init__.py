"""Compare quantization strategies by what they do to the int8 model. Importing this loads no
torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "ExperimentConfig": "records",
    "QuantizationConfig": "records",
    "TrainingConfig": "records",
    "RunRecord": "records",
    "InputError": "errors",
    "Workspace": "pipeline",
    "run_experiment": "pipeline",
    "Location": "datasets.base",
    "CalibrationSet": "datasets.base",
    "Dataset": "datasets.base",
    "Strategy": "strategies.base",
    "Option": "strategies.base",
    "Runtime": "runtimes.base",
    "STRATEGIES": "strategies",
    "MODELS": "models",
    "DATASETS": "datasets",
    "RUNTIMES": "runtimes",
    "cross_check": "crosscheck",
    "export_onnx": "export.onnx_export",
    "certify": "certificate",
    "quantize": "quantization.ptq",
    "diagnose": "diagnosis",
    "plan": "comparison",
    "run_all": "comparison",
    "summarise": "report.table",
}

__all__ = list(_HOMES)

if TYPE_CHECKING:
    from qstrategies.certificate import certify as certify
    from qstrategies.comparison import plan as plan
    from qstrategies.comparison import run_all as run_all
    from qstrategies.crosscheck import cross_check as cross_check
    from qstrategies.datasets import DATASETS as DATASETS
    from qstrategies.datasets.base import CalibrationSet as CalibrationSet
    from qstrategies.datasets.base import Dataset as Dataset
    from qstrategies.datasets.base import Location as Location
    from qstrategies.diagnosis import diagnose as diagnose
    from qstrategies.errors import InputError as InputError
    from qstrategies.export.onnx_export import export_onnx as export_onnx
    from qstrategies.models import MODELS as MODELS
    from qstrategies.pipeline import Workspace as Workspace
    from qstrategies.pipeline import run_experiment as run_experiment
    from qstrategies.quantization.ptq import quantize as quantize
    from qstrategies.records import ExperimentConfig as ExperimentConfig
    from qstrategies.records import QuantizationConfig as QuantizationConfig
    from qstrategies.records import RunRecord as RunRecord
    from qstrategies.records import TrainingConfig as TrainingConfig
    from qstrategies.report.table import summarise as summarise
    from qstrategies.runtimes import RUNTIMES as RUNTIMES
    from qstrategies.runtimes.base import Runtime as Runtime
    from qstrategies.strategies import STRATEGIES as STRATEGIES
    from qstrategies.strategies.base import Option as Option
    from qstrategies.strategies.base import Strategy as Strategy


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
