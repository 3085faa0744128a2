"""What this machine trains on, and how fast it may."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compute_dtype() -> torch.dtype:
    """bfloat16 where the hardware multiplies it natively, else float32 (emulated bfloat16 is slower
    than float32)."""
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has = capabilities()
        native = bool(has.get("avx512_bf16") or has.get("amx_bf16") or has.get("bf16"))
    return torch.bfloat16 if native else torch.float32


@functools.cache
def capabilities() -> Mapping[str, Any]:
    """What the CPU has, as ``torch.cpu.get_capabilities`` names it; where PyTorch is too old to
    say, what Linux says."""
    if hasattr(torch.cpu, "get_capabilities"):
        known: Mapping[str, Any] = torch.cpu.get_capabilities()
        return known
    path = Path("/proc/cpuinfo")
    return said_by_linux(path.read_text() if path.is_file() else "")


def said_by_linux(cpuinfo: str) -> dict[str, Any]:
    """The name and the instructions in the text of /proc/cpuinfo, as PyTorch names them."""
    lines = dict(re.findall(r"^(model name|flags|Features)\s*:\s*(.*)$", cpuinfo, re.MULTILINE))
    name = lines.pop("model name", None)
    words = " ".join(lines.values()).replace("avx512f", "avx512_f").split()
    return dict.fromkeys(words, True) | ({} if name is None else {"cpu_name": name})


@functools.cache
def keep_freed_memory() -> None:
    """Have glibc reuse the memory of freed activations: returning it to the kernel costs a page
    fault per 4 KB.

    For the whole process and for good, so that only who owns the process decides on it: a command
    or a script.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, at its maximum
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
