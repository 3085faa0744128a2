"""Compare quantization strategies by what they do to the int8 model. Importing this loads no torch."""

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
    "plan": "comparison",
    "run_all": "comparison",
    "summarise": "report.table",
}

__all__ = list(_HOMES)

if TYPE_CHECKING:
    from qstrategies.certificate import certify
    from qstrategies.comparison import plan, run_all
    from qstrategies.crosscheck import cross_check
    from qstrategies.datasets import DATASETS
    from qstrategies.datasets.base import CalibrationSet, Dataset, Location
    from qstrategies.errors import InputError
    from qstrategies.export.onnx_export import export_onnx
    from qstrategies.models import MODELS
    from qstrategies.pipeline import Workspace, run_experiment
    from qstrategies.records import ExperimentConfig, QuantizationConfig, RunRecord, TrainingConfig
    from qstrategies.report.table import summarise
    from qstrategies.runtimes import RUNTIMES
    from qstrategies.runtimes.base import Runtime
    from qstrategies.strategies import STRATEGIES
    from qstrategies.strategies.base import Option, Strategy


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
