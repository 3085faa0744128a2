"""Where a run took place: everything that its bits or its speed may depend on."""

from __future__ import annotations

import functools
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

from qstrategies.records import Environment, machine_class

PACKAGES = ("qstrategies", "torch", "onnx", "onnxruntime", "numpy")


@functools.cache
def describe() -> Environment:
    """Versions, CPU, threads, device and commit, as plain JSON values."""
    import torch

    from qstrategies.training.hardware import capabilities, compute_dtype, device

    has = capabilities()
    flags = ("avx2", "avx512_f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16")
    return {
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "machine": platform.machine(),
        "cpu": str(has.get("cpu_name", platform.processor())),
        "cpu_flags": [flag for flag in flags if has.get(flag)],
        "threads": torch.get_num_threads(),
        "device": device().type,
        "training_dtype": str(compute_dtype()).removeprefix("torch."),
        "commit": _commit(),
    }


def here() -> str:
    """The class of this machine."""
    return machine_class(describe())


def package_version(package: str) -> str | None:
    """The installed version of a distribution; None if there is none of that name."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def package_versions(module: str) -> dict[str, str]:
    """The installed distributions that have the top-level ``module`` (PIL: pillow), by name, with
    their versions."""
    return {name: version(name) for name in _distributions().get(module, ())}


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


def _commit() -> str | None:
    """The commit of the checkout that this package runs from; None for an installed package or
    without git."""
    folder = Path(__file__).parent.parent
    command = ["git", "-C", str(folder), "log", "-1", "--format=%H", "--", "."]
    try:
        return (
            subprocess.run(
                command, capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            or None
        )
    except (OSError, subprocess.SubprocessError):
        return None
