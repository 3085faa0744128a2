"""Datasets, one file each, and the splits that every strategy sees alike."""

from __future__ import annotations

from qstrategies.datasets.base import Dataset
from qstrategies.registry import Registry

DATASETS: Registry[type[Dataset]] = Registry("dataset", __name__)
register = DATASETS.register
