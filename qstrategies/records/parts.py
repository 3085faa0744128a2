"""What a record is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypedDict

from qstrategies.typed_json import LARGEST, Count, Fraction, NonNegative, Range

Figure = Annotated[float, Range(-LARGEST)]
"""Of a metric."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch of a learning curve: mean training loss (of classes in nats), figure of the
    validation split, seconds."""

    loss: float
    accuracy: Figure
    seconds: NonNegative


@dataclass(frozen=True, kw_only=True)
class WeightHistogram:
    """Weights of all convolutional and linear layers at one moment; ``counts`` over equal bins of
    [low, high]."""

    when: str
    epoch: Count
    low: float
    high: float
    max_abs: NonNegative
    sigma: NonNegative
    counts: tuple[Count, ...]


@dataclass(frozen=True, kw_only=True)
class RuntimeCheck:
    """One executor against the PyTorch int8 reference, in steps of the output scale (1 where it has
    none).

    ``max_steps`` is None where nothing can be subtracted: an output of another shape, or one that
    is not finite. ``known``: which arithmetic of the file this executor leaves out, if that was
    found in the file and explains every bit.
    """

    runtime: str
    file: str
    images: Count
    accuracy: Figure | None
    agreement: Fraction
    rows_equal: Fraction
    max_steps: NonNegative | None
    first_difference: str | None = None
    known: str | None = None


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """An executor that could not be used here, or did not take ``file``, and why."""

    runtime: str
    reason: str
    file: str | None = None


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One ONNX file in ONNX Runtime on one thread, and its ratio to the float file measured in turn
    with it."""

    file: str
    microseconds_batch_1: NonNegative
    images_per_second_batch_256: NonNegative
    speedup_batch_1: NonNegative
    speedup_batch_256: NonNegative


class Environment(TypedDict, total=False):
    """Where a run took place, see ``environment.describe``."""

    python: str
    packages: dict[str, str | None]
    machine: str
    cpu: str
    cpu_flags: list[str]
    threads: Count
    device: str
    training_dtype: str
    commit: str | None


def machine_class(environment: Environment) -> str:
    """What the bits of a training depend on: machines of one class train the same model. Empty
    where it was not noted down."""
    if "machine" not in environment:
        return ""
    flags = " ".join(environment.get("cpu_flags", [])) or "no flags"
    threads, device = environment.get("threads"), environment.get("device")
    dtype = environment.get("training_dtype")
    return f"{environment['machine']} ({flags}), {device}, {dtype}, {threads} threads"
