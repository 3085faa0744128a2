"""The hooks by which a strategy changes training. A strategy sees neither test data, nor
evaluation, nor export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn
from torch.nn.utils import parametrize

from qstrategies.errors import check_range, unknown

if TYPE_CHECKING:
    from qstrategies.datasets.base import CalibrationSet
    from qstrategies.quantization.prepare import Prepared


@dataclass(frozen=True)
class Option:
    """A number that a strategy takes: its default, its valid range and what it means, with its
    unit."""

    default: float
    low: float
    high: float
    help: str


class Strategy:
    """A way to train a float model so that its int8 version loses nothing.

    Subclasses set the class attributes and override the hooks they need; all hooks do nothing by
    default, and all work in any training loop: ``parametrize`` before it, ``loss`` and
    ``after_step`` in it, ``fold`` after it.
    """

    summary: ClassVar[str]
    """One line for ``qstrategies list``."""
    paper: ClassVar[str] = ""
    """Where the idea comes from."""
    options: ClassVar[Mapping[str, Option]] = {}
    starts_from: ClassVar[str | None] = None
    """The strategy whose float model this one continues, or is compared with; None if it trains its
    own."""
    from_scratch: ClassVar[bool] = False
    """Whether training begins at a fresh model although ``starts_from`` names a float model to
    compare with."""
    quantize_aware: ClassVar[bool] = False
    """Whether it trains with fake quantizers in place (QAT)."""
    observer: ClassVar[str] = "min_max"
    """How activation ranges are found unless the user says otherwise."""

    def __init__(self, **values: float) -> None:
        for name in values:
            if name not in self.options:
                raise unknown(f"option of {type(self).__name__}", name, self.options)
        for name, option in self.options.items():
            check_range(name, values.get(name, option.default), option.low, option.high)
        self.values = {
            name: values.get(name, option.default) for name, option in self.options.items()
        }

    def parametrize(self, model: nn.Module) -> None:
        """Change how ``model`` (float, or fake-quantized for QAT) represents its weights. In
        place."""

    def loss(self, model: nn.Module) -> Tensor | None:
        """A scalar to add to the task's loss, or None."""
        return None

    def after_step(self, model: nn.Module) -> None:
        """Called after every optimizer step, under ``torch.no_grad``."""

    def refine(self, prepared: Prepared, calibration: CalibrationSet) -> None:
        """Adjust a calibrated model before conversion (post-training methods). In place."""

    def fold(self, model: nn.Module) -> None:
        """Turn parametrized weights into plain ones of the same value. In place; folding twice
        changes nothing."""
        for layer in weighted_layers(model):
            if parametrize.is_parametrized(layer, "weight"):
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def weighted_layers(model: nn.Module) -> Iterator[Any]:
    """Every convolutional and linear layer, in the order of ``model.modules()``, fused QAT modules
    included."""
    kinds = (
        nn.Linear,
        nn.Conv1d,
        nn.Conv2d,
        nn.Conv3d,
        nn.ConvTranspose1d,
        nn.ConvTranspose2d,
        nn.ConvTranspose3d,
    )
    return (module for module in model.modules() if isinstance(module, kinds))
