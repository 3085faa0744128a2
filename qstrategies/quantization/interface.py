"""What goes into a quantized model, and in which unit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qstrategies.errors import InputError
from qstrategies.operators.base import Shape, TensorSpec
from qstrategies.quantization.structure import leaves

WHOLE = 1e-3  # pixels that went through a division and a product by 255 are whole up to this


@dataclass(frozen=True)
class InputSpec:
    """One input: its name, the shape of one example, and its quantizer; ``scale`` None for one that
    stays as it is.

    Raw pixels have scale 1 and zero point 0: the quantizer's integers are the values themselves.
    ``unit`` is what one step is worth to the float model: the scale, but for pixels the
    ``input_scale`` of ``quantize``.
    """

    name: str
    shape: Shape
    scale: float | None
    zero_point: int
    unit: float | None = None
    dtype: torch.dtype = torch.float32

    @classmethod
    def of(cls, spec: TensorSpec, input_scale: float | None) -> InputSpec:
        """The input that enters a graph at ``spec``."""
        if spec.quantizer is None:
            return cls(spec.name, spec.shape[1:], None, 0, None, spec.dtype)
        scale, zero_point = spec.quantizer.scale, spec.quantizer.zero_point
        return cls(spec.name, spec.shape[1:], scale, zero_point, input_scale or scale)

    @property
    def pixels(self) -> bool:
        """Whether the integers are raw pixels, whose step is folded into the model."""
        return self.scale is not None and self.unit != self.scale

    def integers(self, values: Tensor) -> Tensor:
        """``values`` as the exported file takes them: real ones of the float model as uint8; uint8
        is taken to be that already.

        Raises:
            InputError: values that are no scaled pixels where pixels are expected, or not finite.
        """
        if self.scale is None:
            return values.to(self.dtype)
        if values.dtype == torch.uint8:
            return values
        assert self.unit is not None
        values = values.float()
        self._check_finite(values)
        if self.pixels:
            self._check_range(values, 255 * self.unit, f"real values for input_scale={self.unit:g}")
        return torch.clamp(torch.round(values / self.unit) + self.zero_point, 0, 255).to(
            torch.uint8
        )

    def for_file(self, values: Tensor, pixels: str) -> Tensor:
        """``values`` (see ``integers``) as a file takes them that was exported with ``pixels``."""
        integers = self.integers(values)
        return integers if pixels == "uint8" else self.reals(integers)

    def reals(self, integers: Tensor) -> Tensor:
        """The integers as real numbers in the quantizer's own scale: raw pixels for pixels."""
        if self.scale is None:
            return integers
        return (integers.float() - self.zero_point) * self.scale

    def checked(self, values: Tensor) -> Tensor:
        """What a module of the quantized model takes, as integers (or as it is if the input has no
        quantizer).

        Raises:
            InputError: another shape, values that are not finite, or no raw pixels where these are
                expected.
        """
        if tuple(values.shape[1:]) != tuple(self.shape):
            raise InputError(
                f"input {self.name!r} has shape {tuple(values.shape)}: expected [batch, "
                f"{_spelled(self.shape)}]"
            )
        if self.scale is None:
            return values.to(self.dtype)
        if values.dtype == torch.uint8:
            return values
        values = values.float()
        self._check_finite(values)
        if self.pixels:
            self._check_range(values, 255, "raw pixels")
            if (values - torch.round(values)).abs().max() > WHOLE:
                factor = 1 / (self.unit or 1)
                raise InputError(
                    f"input {self.name!r} holds fractions: give raw pixels 0...255, scaled "
                    f"ones times {factor:g}"
                )
        return torch.clamp(torch.round(values / self.scale) + self.zero_point, 0, 255).to(
            torch.uint8
        )

    def _check_finite(self, values: Tensor) -> None:
        if not torch.isfinite(values).all():
            raise InputError(f"input {self.name!r} holds NaN or infinity: leave that example out")

    def _check_range(self, values: Tensor, top: float, what: str) -> None:
        low, high = (float(end) for end in torch.aminmax(values)) if values.numel() else (0.0, 0.0)
        slack = top / 510
        if low < -slack or high > top + slack:
            raise InputError(
                f"input {self.name!r} holds values from {low:g} to {high:g}: {what} must lie in "
                f"[0, {top:g}]"
            )


def _spelled(shape: Shape) -> str:
    return ", ".join("any" if size is None else str(size) for size in shape)


def in_order(
    specs: Sequence[InputSpec], args: Sequence[Any], named: Mapping[str, Any]
) -> list[Any]:
    """The tensors of a call, by place and by name, one for each of ``specs``; one dict in the place
    of all by the names in it, where these tell them apart, else in its order.

    Raises:
        InputError: another number of tensors, or a name that no input has.
    """
    known = _given(named)
    if len(args) == 1 and isinstance(args[0], Mapping):
        inside = _given(args[0])
        places = {_place(path, specs) for path in inside}
        if None not in places and len(places) == len(inside):
            known, args = {**known, **inside}, ()
    rest = list(_given(list(args)).values())
    expected = ", ".join(repr(spec.name) for spec in specs)
    placed = {_place(path, specs): tensor for path, tensor in known.items()}
    if None in placed:
        stranger = next(path for path in known if _place(path, specs) is None)
        raise InputError(f"no input is called {stranger!r}: expected {expected}")
    if len(known) + len(rest) != len(specs) or len(placed) != len(known):
        raise InputError(f"got {len(known) + len(rest)} inputs: expected {len(specs)}, {expected}")
    positional = iter(rest)
    return [placed[each] if each in placed else next(positional) for each in range(len(specs))]


def _given(value: Any) -> dict[str, Any]:
    """What is in ``value``, by path."""
    return {path: each for path, each in leaves(value) if each is not None}


def _place(path: str, specs: Sequence[InputSpec]) -> int | None:
    """The input at ``path``: of this name, of one that ends with it where that stands in a
    container, or with a number where Python has the name; None unless that is one."""
    for pattern in (re.escape(path), f".*_{re.escape(path)}", rf"{re.escape(path)}_\d+"):
        found = [place for place, spec in enumerate(specs) if re.fullmatch(pattern, spec.name)]
        if len(found) == 1:
            return found[0]
    return None
