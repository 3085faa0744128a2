"""Running calibration batches through a prepared graph, its observers looking on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils.data import DataLoader, Dataset, IterableDataset

from qstrategies.errors import InputError, first_line
from qstrategies.quantization.fitting import fit_ranges
from qstrategies.quantization.prepare import CPU, Prepared, placed
from qstrategies.quantization.saturation import saturating_nodes

Batches: TypeAlias = Iterable[Any] | Dataset[Any]
"""What calibration may be given as: see ``as_batches``."""
BATCH = 128
"""Examples of what does not come in batches."""
FEW_STEPS = 16
"""Of ``input_scale``: values below may be meant in another unit."""


class _Observing(fx.Interpreter):
    def __init__(self, prepared: Prepared) -> None:
        super().__init__(prepared.graph)
        self.extra_traceback = False
        self.prepared = prepared

    def run_node(self, n: fx.Node) -> Any:
        try:
            value = super().run_node(n)
        except Exception as error:  # whatever somebody's module raises
            reason = f"{str(n.target)!r} fails on calibration data: {first_line(error)}"
            raise InputError(f"{reason}; give some that the model takes") from None
        group = self.prepared.placement.groups.get(n.name, -1)
        quantizer = self.prepared.activations.get(group)
        # Where a quantizer is to saturate, what is behind it sees that.
        return value if quantizer is None else quantizer.observe(value)


def as_batches(calibration: Batches) -> Iterable[Any]:
    """``calibration`` as batches: those of a loader; all examples of a tensor, an array, a dict of
    such or a map-style dataset, in its order."""
    if isinstance(calibration, Tensor | np.ndarray):
        starts = range(0, len(calibration), BATCH)
        return [calibration[start : start + BATCH] for start in starts]
    if isinstance(calibration, Mapping):
        return [calibration]
    if isinstance(calibration, Dataset) and not isinstance(calibration, IterableDataset):
        unseen = torch.Generator()  # a loader draws a number: not from the user's
        return DataLoader(calibration, BATCH, generator=unseen)
    return calibration


@torch.no_grad()
def calibrate(prepared: Prepared, batches: Iterable[Any]) -> tuple[Tensor, ...]:
    """Show ``batches`` of inputs, as the float model takes them, to the observers. Labels behind
    the inputs are left out.

    Returns:
        The inputs of the first batch.

    Raises:
        InputError: no batch; one that does not fit the model, is not finite, or contradicts
            ``input_scale``.
    """
    runner = _Observing(prepared)
    first: tuple[Tensor, ...] | None = None
    with _moved(prepared):
        for number, batch in enumerate(batches, 1):
            inputs = calibration_inputs(prepared, batch, number)
            runner.run(*(each.to(prepared.device) for each in inputs))
            first = inputs if first is None else first
    if first is None:
        raise InputError("calibration needs at least one batch: got none")
    fit_ranges(prepared)
    return first


@contextlib.contextmanager
def _moved(prepared: Prepared) -> Iterator[None]:
    """``prepared`` where the user's model lies, and back on the CPU again."""
    modules = [prepared.graph, *prepared.activations.values()]
    for each in modules:
        each.to(prepared.device)
    try:
        yield
    finally:
        for each in modules:
            each.to(CPU)


def recalibrate(prepared: Prepared, batches: Iterable[Any]) -> None:
    """Find all ranges of ``prepared``, whose forms have changed, afresh. In place."""
    fresh = placed(prepared, saturating_nodes(prepared.graph))
    calibrate(fresh, batches)
    prepared.activations.update(fresh.activations)


def calibration_batches(prepared: Prepared, batches: Iterable[Any]) -> list[tuple[Tensor, ...]]:
    """The tensors of each of ``batches`` (``calibration_inputs``)."""
    return [calibration_inputs(prepared, batch, number) for number, batch in enumerate(batches, 1)]


def calibration_inputs(prepared: Prepared, batch: Any, number: int) -> tuple[Tensor, ...]:
    """The tensors of ``batch``, checked, in the dtypes that the float graph takes."""
    found = []
    placeholders = prepared.graph.graph.find_nodes(op="placeholder")
    for node, tensor in zip(placeholders, prepared.arguments.tensors_of(batch), strict=True):
        where = f"calibration batch {number}, input {node.name!r}"
        found.append(
            _checked(tensor, node.meta["dtype"], node.meta["shape"], prepared.input_scale, where)
        )
    return tuple(found)


def example_inputs(prepared: Prepared) -> tuple[Tensor, ...]:
    """The example that the model was captured with, as the float graph takes it."""
    placeholders = prepared.graph.graph.find_nodes(op="placeholder")
    found = []
    for node, tensor in zip(placeholders, prepared.arguments.tensors, strict=True):
        given = tensor.to(node.meta["dtype"])
        if prepared.input_scale is not None and given.is_floating_point():
            given = given.clamp(0, 255 * prepared.input_scale)
        found.append(given)
    return tuple(found)


def _checked(
    tensor: Tensor, dtype: torch.dtype, shape: Any, input_scale: float | None, where: str
) -> Tensor:
    fits = tensor.dim() == len(shape) and all(
        size in (None, given) for size, given in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        raise InputError(
            f"{where} has shape {tuple(tensor.shape)}: expected {_spelled(shape)}, as in "
            "the example"
        )
    if not tensor.numel():
        raise InputError(f"{where} has no examples: give at least one")
    if dtype != torch.float32:
        if tensor.is_floating_point():
            raise InputError(
                f"{where} has dtype {tensor.dtype}: expected {dtype}, as in the example"
            )
        return tensor.to(dtype)
    if not tensor.is_floating_point():
        if input_scale is None:
            raise InputError(
                f"{where} has dtype {tensor.dtype}: expected real values, or give input_scale"
            )
        reals = tensor.float() * input_scale
        if tensor.dtype != torch.uint8:
            check_pixels(reals, input_scale, where)
        return reals
    tensor = tensor.float()
    # seventeen times as fast as torch.isfinite of every value
    if not torch.isfinite(tensor.amax() - tensor.amin()):
        raise InputError(f"{where} holds NaN or infinity: leave that example out")
    if input_scale is not None:
        check_pixels(tensor, input_scale, where)
    return tensor


def check_pixels(tensor: Tensor, input_scale: float, where: str) -> None:
    """Raise ``InputError`` unless real values are what pixels of 0 to 255 steps of ``input_scale``
    can be: within that range, and not so few steps that rounding to them loses a tenth."""
    low, high = (float(end) for end in torch.aminmax(tensor))
    top = 255 * input_scale
    if low < -input_scale / 2 or high > top + input_scale / 2:
        raise InputError(
            f"{where} holds values from {low:g} to {high:g}: with "
            f"input_scale={input_scale:g} they must lie in [0, {top:g}]"
        )
    if high < FEW_STEPS * input_scale:  # that is rare, and rounding takes time
        lost = tensor - torch.round(tensor / input_scale) * input_scale
        if lost.norm() > tensor.norm() / 10:
            raise InputError(
                f"{where} holds values up to {high:g}, and rounding to steps of "
                f"input_scale={input_scale:g} loses a tenth of them: give the value of one step, "
                "1 / 255 for pixels in [0, 1]"
            )


def _spelled(shape: Any) -> str:
    return "[" + ", ".join("batch" if size is None else str(size) for size in shape) + "]"
