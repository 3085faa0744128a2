"""The compared strategies, one file each."""

from __future__ import annotations

from qstrategies.registry import Registry
from qstrategies.strategies.base import Strategy

STRATEGIES: Registry[type[Strategy]] = Registry("strategy", __name__)
