"""How a dataset of one's own is cut and treated."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qstrategies.datasets.split import Augment
from qstrategies.errors import InputError, check_choice, check_range, unknown
from qstrategies.tasks import TASKS, Task

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""What people call them."""
MEMORY = 1 << 30
"""Bytes of inputs that are kept in memory."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a dataset is cut and treated. Every function that makes one takes these by name.

    Attributes:
        validation, test: the shares of the examples that make these splits where they are not
            given: random, with the classes' shares, the same for the same ``seed``. The test split
            is taken first.
        normalize: "train" for mean and standard deviation of the training split, or a pair of
            them, one number for each channel or column, in the units of the model's inputs. Of
            pixels it becomes a part of the model; real values are normalized when they are read.
        augment: a function of one input [...] as it is kept (of pictures uint8 [C, H, W]) for
            another of the same shape and dtype; on training batches only.
        input_scale: what one step of a pixel is worth, to take whole steps of it as raw pixels;
            bytes are 1 / 255 without it.
        classes: the names of the classes, in the order of their numbers.
        task: the name of one of ``TASKS``, or one of your own. Labels of another than
            classification are arrays [N, ...], whose real values become float32; splits are then
            made at random.
        workers: processes that read what is not kept in memory.
        in_memory: whether inputs are kept; None: up to 1 GB of a split.
        name: of the dataset.
    """

    validation: float = 0.1
    test: float = 0.2
    seed: int = 0
    normalize: Any = None
    augment: Augment | None = None
    input_scale: float | None = None
    classes: Sequence[str] | None = None
    task: str | Task = "classification"
    workers: int = 0
    in_memory: bool | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        check_range("share of validation examples", self.validation, 1e-6, 0.9)
        check_range("share of test examples", self.test, 1e-6, 0.9)
        check_range("number of workers", self.workers, 0, 256)
        if self.input_scale is not None:
            check_range("input_scale", self.input_scale, 1e-12, 1e12)
        if isinstance(self.classes, str) or len(set(self.classes or ())) < len(self.classes or ()):
            raise InputError(f"classes {self.classes!r}: expected a list of names, each once")
        if isinstance(self.task, str):
            check_choice("task", self.task, TASKS)
        if self.augment is not None and not callable(self.augment):
            raise InputError(f"augment {self.augment!r}: expected a function of one input")

    @property
    def judged_by(self) -> Task:
        """The task itself."""
        return TASKS[self.task] if isinstance(self.task, str) else self.task

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """Those ``given`` by name; raises ``InputError`` for another name."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in given:
            if name not in known:
                raise unknown("setting of a dataset", name, known)
        return cls(**given)
