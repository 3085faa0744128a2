"""A model of the user's -> the graph of forms of a copy of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qstrategies.quantization.aten import as_functions, is_exported
from qstrategies.quantization.capture import Captured, capture, left_names
from qstrategies.quantization.copies import copy_of, in_training
from qstrategies.quantization.fixed_functions import mark_fixed
from qstrategies.quantization.normalize import Normalized, normalize
from qstrategies.quantization.observe import copies_of, two_batches
from qstrategies.quantization.scattering import scattering
from qstrategies.quantization.selfcheck import check_forms
from qstrategies.quantization.structure import Arguments, mapped
from qstrategies.quantization.trying import unnoticed


def normalized_copy(
    model: nn.Module,
    arguments: Arguments,
    leave_in_float: Collection[str | type[nn.Module]] = (),
    *,
    trains: bool = False,
) -> Normalized:
    """The graph of forms of a float32 copy of ``model`` in evaluation mode; it computes what that
    copy computes. Where it ``trains``, it knows what is fixed and what is drawn in training.

    Raises:
        InputError: what cannot be captured.
        SelfCheckError: a graph that gives something else than the model.
    """
    copied = _float_copy(model)
    example = [each.float() if each.is_floating_point() else each for each in arguments.tensors]
    batch = arguments.filled(two_batches(example)[0])
    if is_exported(copied):  # tracing it again would only take its names and what they stand for
        return _checked(copied, Captured(as_functions(copied), {}), arguments, example)
    left = left_names(copied, leave_in_float)
    scatters = scattering(copied, batch) - left.keys() if trains else set()

    def seen(*, assumes: bool) -> Normalized:
        captured = capture(copied, arguments, left, scatters, assumes=assumes)
        if captured.assumed:  # how many the user called it with: two are tried in less time
            with torch.no_grad(), unnoticed():
                copied(*batch[0], **batch[1])
            captured = capture(copied, arguments, left, scatters, assumes=assumes)
        if trains:
            mark_fixed(captured.module.graph, copied, model, batch)
        return _checked(copied, captured, arguments, example)

    try:
        return seen(assumes=True)
    except AssumptionError:
        return seen(assumes=False)


class AssumptionError(Exception):
    """For one number of examples the model does something else than for others."""


def _checked(
    model: nn.Module, captured: Captured, arguments: Arguments, example: Sequence[Tensor]
) -> Normalized:
    """The forms of ``captured``, which compute what ``model`` does. Raises ``AssumptionError``
    where they do not for a number of examples that was assumed to be as others."""
    normalized = normalize(captured, example)
    check_forms(model, normalized.module, arguments, normalized.inputs)
    for count in captured.assumed:
        examples = copies_of(example, count)
        try:
            for _ in range(2):  # what the first call keeps, the second may use
                check_forms(model, normalized.module, arguments, examples)
        except Exception as error:  # whatever somebody's forward raises
            raise AssumptionError from error
    return normalized


def _float_copy(model: nn.Module) -> nn.Module:
    copied = in_training(copy_of(model))
    module: Any
    for module in copied.modules():
        module.stays_in_eval = not module.training
    is_leaf = type(copied).__module__.startswith("torch.nn.modules") and not isinstance(
        copied, nn.Sequential
    )
    root = nn.Sequential(copied) if is_leaf else copied
    return root.cpu().float().eval()


def numbered(normalized: Normalized) -> Any:
    """What the model returns, with the places of the graph's outputs for the tensors."""
    numbers = iter(range(len(normalized.module.graph.output_node().args[0])))  # type: ignore[arg-type]
    return mapped(normalized.outputs, lambda _, value: None if value is None else next(numbers))
