"""A model in training under a strategy: what a training loop of one's own calls. Ours is one of
them (``loop.py``)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qstrategies.errors import InputError
from qstrategies.guest import guest, own_randomness
from qstrategies.quantization.model import QuantizedModel
from qstrategies.quantization.qat import FakeQuantizedModel, prepare_qat
from qstrategies.quantization.recipe import overrides
from qstrategies.records import QuantizationConfig
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Step, Strategy
from qstrategies.training.post_training import quantize, trained_integers

STEPS = "qstrategies.steps"
"""The key of a trainee's state that holds how many steps were taken."""


class Trainee:
    """``model`` is trained by calling it as the user's model is called.

    Its optimizer gets ``parameter_groups``, its loss ``penalty``, and ``after_step`` follows every
    step of the optimizer; ``finish`` gives the quantized model.
    """

    def __init__(
        self,
        model: nn.Module,
        strategy: Strategy,
        total: int | None = None,
        request: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.strategy, self.total = model, strategy, total
        self.steps = 0
        self._request = dict(request or {})
        self._seen: list[tuple[Tensor, ...]] = []
        strategy.parametrize(model)
        self._hook: RemovableHandle | None = None
        if overrides(strategy, "loss", Strategy):
            keep = _keeping(self._seen)
            self._hook = model.register_forward_pre_hook(keep, with_kwargs=True)

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        """All parameters of ``model`` as an optimizer of torch takes them, for the learning rate
        ``rate``."""
        special = self.strategy.parameter_groups(self.model, rate)
        taken = {id(parameter) for group in special for parameter in group.parameters}
        rest = [each for each in self.model.parameters() if id(each) not in taken]
        groups = [{"params": each.parameters, "lr": rate, **each.settings} for each in special]
        return [{"params": rest, "lr": rate}, *groups]

    def penalty(
        self,
        outputs: Any,
        inputs: tuple[Tensor, ...] | None = None,
        criterion: Callable[[Any], Tensor] | None = None,
    ) -> Tensor | float:
        """What to add to the loss: 0.0 where the strategy has no loss of its own.

        Args:
            outputs: what ``model`` gave.
            inputs: for what, where it was not called itself.
            criterion: the loss of outputs without the penalty, for strategies that look at it at
                other weights, as sam does.
        """
        if not overrides(self.strategy, "loss", Strategy):
            return 0.0
        given = inputs if inputs is not None else next(iter(self._seen), ())
        step = Step(self.steps, self.total, given, outputs, criterion)
        extra = self.strategy.loss(self.model, step)
        return 0.0 if extra is None else extra

    @torch.no_grad()
    def after_step(self) -> None:
        """To be called after every step of the optimizer."""
        self.steps += 1
        self.strategy.after_step(self.model, Step(self.steps, self.total))

    def fold(self) -> nn.Module:
        """``model`` in evaluation mode on the CPU, its weights plain again. Trains no further."""
        self.strategy.fold(self.model)
        return self.model.cpu().eval()

    @guest
    def finish(self, calibration: Iterable[Any] = ()) -> QuantizedModel:
        """The quantized model of what was trained, which can be trained on.

        Args:
            calibration: batches as for ``quantize``; a strategy with fake quantizers, whose ranges
                are trained, needs none.

        Raises:
            InputError: no calibration batch where one is needed, or one that does not fit.
            SelfCheckError: the result is not the trained model (``selfcheck.py``).
        """
        trained = copy.deepcopy(self.model).cpu().eval()
        if self._hook is not None:  # of the user's own, all stay
            del trained._forward_pre_hooks[self._hook.id]
            del trained._forward_pre_hooks_with_kwargs[self._hook.id]
        self.strategy.fold(trained)
        if not isinstance(trained, FakeQuantizedModel):
            return quantize(trained, calibration, strategy=self.strategy, **self._request)
        return trained_integers(trained, calibration)

    def state_dict(self) -> dict[str, Any]:
        """All that training on needs, with that of the optimizer: parameters, ranges, steps."""
        return {**self.model.state_dict(), STEPS: torch.tensor(self.steps)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state_dict``. Raises ``InputError`` for that of another model or
        strategy."""
        content = dict(state)
        steps = content.pop(STEPS, None)
        if steps is None:
            raise InputError(f"the state has no {STEPS!r}: it is not that of a trainee")
        try:
            self.model.load_state_dict(content)
        except RuntimeError as error:
            raise InputError(f"the state does not fit: {' '.join(str(error).split())}") from None
        self.steps = int(steps)


@guest
@own_randomness()
def prepare(  # noqa: PLR0913 - one keyword per setting
    model: nn.Module,
    example: Any,
    strategy: str | Strategy,
    *,
    config: QuantizationConfig = QuantizationConfig(),
    input_scale: float | None = None,
    leave_in_float: Collection[str | type[nn.Module]] = (),
    steps: int | None = None,
    calibration: Iterable[Any] = (),
) -> Trainee:
    """``model`` under ``strategy``, for a training loop of one's own. ``model`` is not changed.

    Args:
        example: one batch as ``model`` takes it: a tensor, a tuple of its arguments, or a dict of
            them by name.
        strategy: its name, or one with options (``Clamp(threshold=0.2)``).
        config: bits, observer and exactness; ``observer`` None means the strategy's own.
        input_scale: the real value of one pixel step where inputs are scaled pixels (1 / 255 for
            images in [0, 1]); None to quantize inputs over their observed range.
        leave_in_float: names (``"features.3"``) or types of modules to leave unquantized.
        steps: how many optimizer steps there will be, for strategies that change on the way.
        calibration: batches as for ``quantize``, for strategies with fake quantizers that look at
            some before training ("mixed+qat").

    Raises:
        InputError: an unknown strategy or name, or a model that cannot be captured.
    """
    chosen = STRATEGIES.made(strategy)
    request: dict[str, Any] = {
        "example": example,
        "config": chosen.resolved(config),
        "input_scale": input_scale,
        "leave_in_float": leave_in_float,
    }
    if not chosen.course.fake_quantized:
        return Trainee(copy.deepcopy(model), chosen, steps, request)
    trained = prepare_qat(model, recipe=chosen, calibration=calibration, **request)
    return Trainee(trained, chosen, steps)


@guest
def resume(
    model: nn.Module,
    example: Any,
    strategy: str | Strategy,
    state: Mapping[str, Any],
    **settings: Any,
) -> Trainee:
    """The trainee whose ``state_dict`` was ``state``; all else as it was given to ``prepare``."""
    resumed = prepare(model, example, strategy, **settings)
    resumed.load_state_dict(state)
    return resumed


def _keeping(seen: list[tuple[Tensor, ...]]) -> Any:
    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[:] = [tuple(each for each in (*args, *kwargs.values()) if isinstance(each, Tensor))]

    return keep
