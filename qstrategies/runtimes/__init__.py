"""Executors of an ONNX file, one file each."""

from __future__ import annotations

from qstrategies.registry import Registry
from qstrategies.runtimes.base import Runtime

RUNTIMES: Registry[type[Runtime]] = Registry("runtime", __name__)
register = RUNTIMES.register
