"""A model in training under a strategy: what a training loop of one's own calls. Ours is one of
them (``loop.py``)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qstrategies.arguments import public
from qstrategies.errors import InputError
from qstrategies.guest import guest, own_randomness
from qstrategies.quantization.activation_quantizers import ActivationQuantizer
from qstrategies.quantization.calibrate import Batches
from qstrategies.quantization.copies import copy_of, in_training
from qstrategies.quantization.model import QuantizedModel
from qstrategies.quantization.qat import FakeQuantizedModel, prepare_qat
from qstrategies.quantization.recipe import overrides
from qstrategies.quantization.structure import (
    as_module,
    check_single,
    device_of,
    placed_as,
)
from qstrategies.records import QuantizationConfig
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Step, Strategy
from qstrategies.training.post_training import quantize, trained_integers
from qstrategies.training.watch import Calls, Untouched

STEPS = "qstrategies_steps"
"""The buffer of a model in training that holds how many steps were taken."""


class Trainee:
    """``model`` is trained by calling it as the user's model is called.

    Its optimizer gets ``parameter_groups``, its loss ``penalty``, and ``after_step`` follows every
    step that the optimizer takes; ``finish`` gives the quantized model. The state of ``model`` and
    that of the optimizer are all that training on needs (``resume``).
    """

    def __init__(
        self,
        model: nn.Module,
        strategy: Strategy,
        total: int | None = None,
        request: Mapping[str, Any] | None = None,
    ) -> None:
        self.strategy, self.total = strategy, total
        self._calls = Calls()
        self._model, self._request = model, dict(request or {})
        self._has_forward = "forward" in vars(model)
        self._begun = self._penalized = self._asked = False
        strategy.parametrize(model)
        model.register_buffer(STEPS, torch.zeros((), dtype=torch.long))
        model.register_load_state_dict_pre_hook(_with_steps)
        self._hook: RemovableHandle | None = None
        if self._has_loss:
            self._hook = model.register_forward_hook(self._calls, with_kwargs=True)
        self._untouched: Untouched | None = Untouched(model)

    def __repr__(self) -> str:
        return f"Trainee({self.strategy!r} after {self.steps} steps)"

    @property
    def model(self) -> nn.Module:
        """What is trained. Wrap it (``DistributedDataParallel``, ``torch.compile``) under another
        name."""
        return self._model

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return int(self.model.get_buffer(STEPS))

    @property
    def _has_loss(self) -> bool:
        return overrides(self.strategy, "loss", Strategy)

    @property
    def _acts(self) -> bool:
        """Whether the strategy does something at every step."""
        return self._has_loss or overrides(self.strategy, "after_step", Strategy)

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        """All parameters of ``model`` as an optimizer of torch takes them, for the learning rate
        ``rate``."""
        self._asked = True  # the optimizer is the right one
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
        """What to add to the loss of every step: 0.0 where the strategy has no loss of its own.

        Args:
            outputs: what ``model`` gave, once for each call.
            inputs: for what, where it was not called itself.
            criterion: the loss of outputs without the penalty, for strategies that look at it at
                other weights, as sam does.

        Raises:
            InputError: no call of ``model`` that gave ``outputs``, or several that may have.
        """
        if not self._has_loss:
            return 0.0
        given = self._calls.inputs_of(outputs) if inputs is None else inputs
        step = Step(self.steps, self.total, given, outputs, criterion)
        with self._calls.paused():
            extra = self.strategy.loss(self.model, step)
        self._calls.answered(given)
        self._penalized = True
        return 0.0 if extra is None else extra

    @torch.no_grad()
    def after_step(self) -> None:
        """To be called after every step that the optimizer takes: not where gradients are only
        accumulated, or where a ``GradScaler`` skips.

        Raises:
            InputError: a step without a penalty where the strategy has one, a model that was never
                called in training mode, or an optimizer of other parameters.
        """
        self._check_step()
        self._calls.forget()
        self._penalized = False
        self.model.get_buffer(STEPS).add_(1)
        self.strategy.after_step(self.model, Step(self.steps, self.total))
        if self._untouched is not None:  # the strategy may have moved them
            self._untouched = Untouched(self.model)

    def _check_step(self) -> None:
        if self._has_loss and not self._penalized:
            raise InputError(
                f"{type(self.strategy).__name__} adds to the loss: call "
                "trainee.penalty(outputs) at every step, and add what it gives"
            )
        if not self._begun:
            self._check_ranges()
        if self._untouched is not None and (self._asked or not self._untouched.still()):
            self._untouched = None
        # The first step may have a rate of 0, which fused optimizers leave no trace of.
        if self._begun and self._untouched is not None and self._untouched.pulled():
            raise self._untouched.error()
        self._begun = True

    def _check_finish(self) -> None:
        if self._untouched is None:
            return
        moved = not self._untouched.still()
        if self._begun and not self._asked and not moved:
            raise self._untouched.error()
        if self.steps == 0 and moved and self._acts:
            raise InputError(
                f"the parameters were moved, but {type(self.strategy).__name__} never heard of a "
                "step: call trainee.after_step() after each one of the optimizer"
            )

    def _check_ranges(self) -> None:
        quantizers = (
            each for each in self.model.modules() if isinstance(each, ActivationQuantizer)
        )
        if not all(quantizer.seen for quantizer in quantizers):
            raise InputError(
                "trainee.model has seen no batch in training mode, so that nothing is quantized: "
                "call trainee.model.train() first"
            )

    def fold(self) -> nn.Module:
        """``model`` in evaluation mode on the CPU, its weights plain again. Trains no further."""
        return self._folded(self.model).cpu()

    @public
    @guest
    def finish(self, calibration: Batches = ()) -> QuantizedModel:
        """The quantized model of what was trained, which can be trained on.

        Args:
            calibration: batches as for ``quantize``; a strategy with fake quantizers, whose ranges
                are trained, needs none.

        Raises:
            InputError: nothing was trained or seen, or without ``after_step``; no calibration batch
                where one is needed, or one that does not fit.
            SelfCheckError: the result is not the trained model (``selfcheck.py``).
        """
        self._check_finish()
        trained = self._folded(self._bare_copy())
        if not isinstance(trained, FakeQuantizedModel):
            return quantize(trained, calibration, strategy=self.strategy, **self._request)
        return trained_integers(trained, calibration)

    def _load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of ``model``.

        Raises:
            InputError: that of another model or strategy.
        """
        try:
            self.model.load_state_dict(state)
        except RuntimeError as error:
            raise InputError(
                f"the state does not fit: {' '.join(str(error).split())}; give that of this model"
            ) from None
        self._untouched = Untouched(self.model)

    def _bare_copy(self) -> nn.Module:
        """``model`` without what this trainee and a framework have put around its forward."""
        copied = copy_of(self.model)
        if self._hook is not None:  # of the user's own, all stay
            del copied._forward_hooks[self._hook.id]
            del copied._forward_hooks_with_kwargs[self._hook.id]
        if not self._has_forward:  # accelerate replaces it for mixed precision
            vars(copied).pop("forward", None)
        return copied

    def _folded(self, model: nn.Module) -> nn.Module:
        self.strategy.fold(model)
        if hasattr(model, STEPS):
            delattr(model, STEPS)
        return model.eval()


@public
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
    calibration: Batches = (),
) -> Trainee:
    """``model`` under ``strategy``, for a training loop of one's own. ``model`` is not changed.

    What is trained lies on the device of ``model``, in training mode; modules in evaluation mode of
    a model in training mode are frozen, and stay so.

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
    model, chosen = as_module(model), STRATEGIES.made(strategy)
    request: dict[str, Any] = {
        "example": example,
        "config": chosen.resolved(config),
        "input_scale": input_scale,
        "leave_in_float": leave_in_float,
    }
    if chosen.course.fake_quantized:
        check_single(model)
        trained = prepare_qat(model, recipe=chosen, calibration=calibration, **request)
        return Trainee(placed_as(model, trained).train(), chosen, steps)
    device_of(model)  # which refuses one without values
    return Trainee(in_training(copy_of(model)), chosen, steps, request)


@public
@guest
def resume(
    model: nn.Module,
    example: Any,
    strategy: str | Strategy,
    state: Mapping[str, Any],
    **settings: Any,
) -> Trainee:
    """The trainee whose ``model.state_dict()`` was ``state``; all else as it was given to
    ``prepare``.

    Raises:
        InputError: as ``prepare``; a state of something else.
    """
    if STEPS not in state:
        raise InputError(f"the state has no {STEPS!r}: expected that of trainee.model")
    resumed = prepare(model, example, strategy, **settings)
    resumed._load(state)
    return resumed


def _with_steps(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """States of plain models, which know of no steps, are taken too."""
    if STEPS in module._buffers:
        state.setdefault(prefix + STEPS, module._buffers[STEPS])
