"""Datasets, one file each or made of what you have, and the splits that every strategy sees
alike."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qstrategies.errors import InputError
from qstrategies.registry import Registry
from qstrategies.source_code import reason

if TYPE_CHECKING:  # loaded when it is asked for, since it takes torch
    from qstrategies.datasets.arrays import from_arrays as from_arrays
    from qstrategies.datasets.arrays import from_signals as from_signals
    from qstrategies.datasets.base import Dataset, Location
    from qstrategies.datasets.folders import image_folder as image_folder
    from qstrategies.datasets.tables import from_table as from_table
    from qstrategies.datasets.torch_data import from_torch as from_torch

DATASETS: Registry[Callable[..., Dataset]] = Registry("dataset", __name__)
register = DATASETS.register

_HOMES = {
    "from_arrays": "arrays",
    "from_signals": "arrays",
    "image_folder": "folders",
    "from_table": "tables",
    "from_torch": "torch_data",
}


def __dir__() -> list[str]:
    """For completion at a prompt, before anything is loaded."""
    return [*globals(), *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def made_dataset(name: str, location: Location) -> Dataset:
    """What is registered as ``name``, or what that makes; told the ``location`` if it asks for it.

    Raises ``InputError`` for an unknown name, and for something that makes no dataset.
    """
    from qstrategies.datasets.base import Dataset

    item = DATASETS.get(name)
    if isinstance(item, Dataset):
        return item
    asks = "location" in inspect.signature(item).parameters
    try:
        dataset = item(location=location) if asks else item()
    except InputError:
        raise
    except Exception as error:  # whatever the code of a user raises
        raise InputError(
            f"dataset {name!r} cannot be made: {reason(error)}; its code must run"
        ) from error
    if not isinstance(dataset, Dataset):
        raise InputError(
            f"the dataset {name!r} gives a {type(dataset).__name__}: expected a Dataset, as the "
            "functions of qs.datasets make it"
        )
    return dataset
