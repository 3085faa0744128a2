"""The hooks by which a strategy changes training and quantization. It sees neither test data, nor
evaluation, nor export."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qstrategies.errors import InputError, check_range, unknown
from qstrategies.quantization.qat import FakeQuantizedModel
from qstrategies.quantization.recipe import Recipe
from qstrategies.quantization.reestimate import reestimate
from qstrategies.records import LEVELS, QuantizationConfig

Schedule = Literal["training", "tuning"]


@dataclass(frozen=True)
class Option:
    """A number that a strategy takes: its default, its valid range and what it means, with its
    unit."""

    default: float
    low: float
    high: float
    help: str


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a strategy comes to its model.

    Attributes:
        parent: the strategy whose float model it continues, or is compared with; None if it trains
            its own.
        schedule: how it trains: as long as a float model, or as what continues one; None if it
            changes the way from a float model to integers only.
        fresh: whether training begins at a fresh model although there is a parent.
        fake_quantized: whether it trains with fake quantizers in place (QAT).
    """

    parent: str | None = None
    schedule: Schedule | None = "training"
    fresh: bool = False
    fake_quantized: bool = False

    @property
    def group(self) -> str:
        """What strategies that take this course are shown among."""
        if self.fake_quantized:
            return "QAT"
        return "post-training" if self.schedule is None else "ranges of weights"


BASELINE = "no_norm"
"""The strategy whose float model is plainly trained: what others start from, or a checkpoint is."""
QAT = Course(parent=BASELINE, schedule="tuning", fake_quantized=True)
"""Quantization-aware training from the baseline's float model."""


REESTIMATION = {
    "norm_batches": Option(
        0, 0, 10_000, "calibration batches to measure batch normalization on again; 0: none"
    )
}
"""An option of all QAT: low bits leave running statistics behind (Nagel et al., arXiv 2203.11086,
section 4.1; 50 or 100 batches there)."""


@dataclass(frozen=True)
class Step:
    """A moment of training, for hooks.

    Attributes:
        number: optimizer steps done.
        total: how many there will be; None where the loop does not say.
        inputs: the tensors of the last batch.
        outputs: what the model gave for them.
        criterion: the task's loss of such outputs; None where the loop does not say.
    """

    number: int
    total: int | None = None
    inputs: tuple[Tensor, ...] = ()
    outputs: Any = None
    criterion: Callable[[Any], Tensor] | None = None

    @property
    def progress(self) -> float:
        """The part of training that is done, in [0, 1]; raises ``InputError`` where its length is
        not known."""
        if self.total is None:
            raise InputError(
                "the strategy changes as training goes on: say how long that is, "
                "qs.prepare(..., steps=N)"
            )
        return min(1.0, self.number / max(1, self.total))


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with settings of their own, as optimizers take them."""

    parameters: list[nn.Parameter]
    settings: Mapping[str, float]


class Strategy(Recipe):
    """A way to a model whose int8 version loses nothing.

    Subclasses set the class attributes and override the hooks they need; all hooks do nothing by
    default, and all work in any training loop: ``parametrize`` before it, ``parameter_groups`` for
    its optimizer, ``loss`` and ``after_step`` in it, ``fold`` after it; then those of ``Recipe``.
    """

    summary: ClassVar[str] = ""
    """One line for ``qstrategies list``."""
    group: ClassVar[str]
    """What it is shown among (``records.GROUPS``); by its course unless it says otherwise."""
    paper: ClassVar[str] = ""
    """Where the idea comes from."""
    options: ClassVar[Mapping[str, Option]] = {}
    course: ClassVar[Course] = Course()
    observer: ClassVar[str | None] = None
    """How activation ranges are found unless the user says otherwise; None for the default."""
    chooses_chain: ClassVar[bool] = False
    """Whether it chooses other strategies after calibration, so that none can be trained before."""
    compares_classes: ClassVar[bool] = False
    """Whether it takes outputs for logits of classes, in dimension 1."""
    refused_levels: ClassVar[Mapping[str, str]] = {}
    """Level sets that it cannot have, and why."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "group" not in vars(cls):
            cls.group = cls.course.group
        if cls.course.fake_quantized:
            cls.options = {**cls.options, **REESTIMATION}

    def __init__(self, **values: float) -> None:
        for name in values:
            if name not in self.options:
                raise unknown(f"option of {type(self).__name__}", name, self.options)
        for name, option in self.options.items():
            check_range(name, values.get(name, option.default), option.low, option.high)
        self.values = {
            name: values.get(name, option.default) for name, option in self.options.items()
        }

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value:g}" for name, value in self.values.items())
        return f"{type(self).__name__}({options})"

    def resolved(self, config: QuantizationConfig) -> QuantizationConfig:
        """``config`` with the strategy's own observer where it names none.

        Raises:
            InputError: a level set that the strategy cannot have.
        """
        if config.levels in self.refused_levels:
            reason = self.refused_levels[config.levels]
            raise InputError(
                f"{type(self).__name__} cannot have levels {config.levels!r}: {reason}. Valid: "
                f"{', '.join(name for name in LEVELS if name not in self.refused_levels)}"
            )
        return replace(config, observer=config.observer or self.observer)

    def parametrize(self, model: nn.Module) -> None:
        """Change how ``model`` (float, or fake-quantized for QAT) represents its weights. In
        place."""

    def parameter_groups(self, model: nn.Module, rate: float) -> list[ParameterGroup]:
        """The parameters of ``model`` that need settings of their own, where ``rate`` is the
        learning rate of all others."""
        return []

    def loss(self, model: nn.Module, step: Step) -> Tensor | None:
        """A scalar to add to the task's loss, or None."""
        return None

    def after_step(self, model: nn.Module, step: Step) -> None:
        """Called after every optimizer step, under ``torch.no_grad``."""

    def settle(self, model: FakeQuantizedModel, batches: Sequence[tuple[Tensor, ...]]) -> None:
        count = int(self.values.get("norm_batches", 0))
        if count and not batches:
            raise InputError("norm_batches measures on calibration batches: give some")
        if count:
            reestimate(model, batches[:count])

    def fold(self, model: nn.Module) -> None:
        """Turn parametrized weights into plain ones of the same value. In place; folding twice
        changes nothing."""
        for layer in weighted_layers(model):
            if parametrize.is_parametrized(layer, "weight"):
                _own_class(layer)
                _own_original(layer)
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def _own_original(layer: Any) -> None:
    """Give ``layer`` a parameter of its own to compute its weight of, as the value is written into
    it, and something else may have it too."""
    computed = layer.parametrizations["weight"]
    if computed.is_tensor:
        own = computed.original
        computed.original = nn.Parameter(own.detach().clone(), own.requires_grad)


def plain_layers(model: nn.Module, use: str, *, shared: bool = False) -> dict[str, Any]:
    """``weighted_layers`` by their names, whose weights are parameters that may be put to ``use``.

    Raises:
        InputError: a weight that is computed already, or, unless ``shared``, that something else
            has too.
    """
    holders = Counter(
        id(each) for module in model.modules() for each in module._parameters.values()
    )
    names = {id(module): name for name, module in model.named_modules()}
    layers = {names[id(layer)]: layer for layer in weighted_layers(model)}
    for name, layer in layers.items():
        own = layer._parameters.get("weight")
        if own is not None and (shared or holders[id(own)] == 1):
            continue
        what = "is computed from others" if own is None else "is shared with another module"
        raise InputError(
            f"the weight of {name!r} {what}, and {use}: take another strategy, or give each layer "
            "a plain weight"
        )
    return layers


def weight_parameters(layer: nn.Module) -> list[nn.Parameter]:
    """The weight of ``layer``, or what it is computed from."""
    own = layer.named_parameters()
    return [each for name, each in own if "bias" not in name.split(".")]


def summed(parts: Sequence[Tensor]) -> Tensor:
    """The sum of ``parts``, numbers of one layer each; 0 where a model has no layers."""
    return torch.stack(list(parts)).sum() if parts else torch.zeros(())


def _own_class(layer: nn.Module) -> None:
    """Give ``layer`` a class like its own: copies of a parametrized module share one, from which
    folding takes the property away."""
    kind = type(layer)
    content = {
        name: each for name, each in vars(kind).items() if name not in ("__dict__", "__weakref__")
    }
    layer.__class__ = type(kind.__name__, kind.__bases__, content)


def weighted_layers(model: nn.Module) -> Iterator[Any]:
    """Every convolutional and linear layer of the user's, in the order of ``model.modules()``, in
    fake-quantized models too."""
    kinds = (
        nn.Linear,
        nn.Conv1d,
        nn.Conv2d,
        nn.Conv3d,
        nn.ConvTranspose1d,
        nn.ConvTranspose2d,
        nn.ConvTranspose3d,
    )
    layers = (module for module in model.modules() if isinstance(module, kinds))
    return (layer for layer in layers if not getattr(layer, "of_ones", False))
