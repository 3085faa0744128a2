"""A layer in training that computes with the weight and the bias that are exported."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from qstrategies.operators.transposed import is_transposed
from qstrategies.quantization.activation_quantizers import ActivationQuantizer
from qstrategies.quantization.decide import wanted
from qstrategies.quantization.exact_forms import folded_parameters, norm_factor, output_rows
from qstrategies.quantization.prepare import Prepared
from qstrategies.quantization.quantizers import WeightQuantizer
from qstrategies.quantization.scales import straight_through
from qstrategies.quantization.steps import coarsened

Ends = tuple[ActivationQuantizer | None, ActivationQuantizer | None]


def ends_of(forms: Prepared, node: fx.Node) -> Ends:
    """The quantizers of what the layer at ``node`` reads and of what is made of it, behind its norm
    and its ReLU; None for pixels and for what stays in float."""
    end = forms.placement.end(node)
    return quantizer_of(forms, node.all_input_nodes[0]), quantizer_of(forms, end)


def quantizer_of(forms: Prepared, node: fx.Node) -> ActivationQuantizer | None:
    """Of what ``node`` gives."""
    return forms.activations.get(forms.placement.groups.get(node.name, -1))


@dataclass(frozen=True, eq=False)
class _Folded:
    """A layer as it is exported, before it is rounded: ``weight`` and ``bias`` with the norm folded
    in by ``factor``, and the ``scale`` [out_channels] of the weight.

    ``entry`` is that of what it reads, [1]; None where nothing was seen of it. ``result`` is that
    of what is made of it, if it is known.
    """

    factor: Tensor
    weight: Tensor
    bias: Tensor
    scale: Tensor
    entry: Tensor | None
    result: float | None

    def rounded_bias(self, quantizer: WeightQuantizer) -> Tensor:
        """In steps of the accumulator, as ``quantizer`` rounds it, with the gradient of the real
        one."""
        if self.entry is None:
            return self.bias
        step = self.scale.detach().double() * self.entry.double()
        whole = (quantizer.bias_steps(self.bias.detach(), step, self.result) * step).float()
        return straight_through(whole, self.bias)


def _divisor(factor: Tensor) -> Tensor:
    """``factor``, but 1 where a norm gives its bias for everything."""
    return torch.where(factor == 0, 1.0, factor)


class FakeQuantizedLayer(nn.Module):
    """``layer`` with the weight that is exported, up to the batch normalization behind it.

    With ``f = gamma / sigma`` of ``norm`` per output channel it computes ``layer(x, FQ(f w) / f)``.
    ``f`` is detached: ``FQ(f w) / f`` with a scale proportional to max |f w| does not depend on it.
    The bias is moved by what rounding it changes once it is folded, unless the norm takes the mean
    of the batch away anyway.

    Args:
        ends: the quantizers of what the layer reads (None for pixels) and of what is made of it.
    """

    def __init__(
        self, layer: Any, norm: Any | None, quantizer: WeightQuantizer, ends: Ends
    ) -> None:
        super().__init__()
        self.layer, self.norm, self.quantizer = layer, norm, quantizer
        self.entry, self.output = ends

    @property
    def weight(self) -> Tensor:
        """Fake-quantized as the folded layer is, then unfolded."""
        return self._unfolded(self._folded())

    @property
    def bias(self) -> Tensor | None:
        """Of the layer."""
        bias: Tensor | None = self.layer.bias
        return bias

    @property
    def steps(self) -> tuple[Tensor, Tensor]:
        """The weight in steps, before it is rounded, and what a step is in the layer's own weight
        (negative where a batch normalization turns the sign); only the first has a gradient."""
        folded = self._folded()
        scale = self._shaped(folded.scale.detach() / self.quantizer.unit)
        return folded.weight / scale, scale / folded.factor

    def _folded(self) -> _Folded:
        """The scale raised as the surroundings ask for."""
        layer, norm = self.layer, self.norm
        weight, bias = folded_parameters(layer, norm)
        scale = self.quantizer.exported_scale(output_rows(layer, weight))
        entry, result = self._entry_scale(), self._result()
        if entry is not None:
            fitted = self.quantizer.fitted(scale.detach(), bias.detach(), entry, result)
            scale = straight_through(fitted, scale) if scale.requires_grad else fitted
        factor = torch.ones(()) if norm is None else norm_factor(layer, norm)
        return _Folded(factor, weight, bias, scale, entry, None if result is None else result[0])

    def _entry_scale(self) -> Tensor | None:
        """Of what the layer reads, [1]; None where nothing was seen of it."""
        if self.entry is None:
            return torch.ones(1, device=self.layer.weight.device)
        found = self.entry.current()
        return None if found is None else found[0]

    def _result(self) -> tuple[float, int] | None:
        """Scale and zero point of what is made of the layer, if they are known."""
        found = None if self.output is None else self.output.current()
        return None if found is None else (float(found[0]), int(found[1]))

    def _shaped(self, scale: Tensor) -> Tensor:
        """``scale`` [out_channels] to go with the weight."""
        if is_transposed(self.layer):
            return scale[0]
        return scale.reshape(-1, *[1] * (self.layer.weight.dim() - 1))

    def _unfolded(self, folded: _Folded) -> Tensor:
        scale = self._shaped(folded.scale / self.quantizer.unit)
        rounded = self.quantizer.rounded(folded.weight, scale)
        return rounded if self.norm is None else rounded / _divisor(folded.factor)

    def _moved_bias(self, folded: _Folded) -> Tensor | None:
        """The bias of the layer, moved as the folded one is when it is rounded."""
        bias = self.bias
        if self.norm is None:
            return bias if bias is None else folded.rounded_bias(self.quantizer)
        if self.norm.training:
            return bias
        apart = folded.rounded_bias(self.quantizer).detach() - folded.bias.detach()
        moved = apart / _divisor(folded.factor.flatten())
        return moved if bias is None else bias + moved

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        result: Tensor = self.layer._conv_forward(x, weight, bias)
        return result

    def forward(self, x: Tensor) -> Tensor:
        folded = self._folded()
        return self._applied(x, self._unfolded(folded), self._moved_bias(folded))

    def exported(self, x: Tensor) -> Tensor:
        """``norm(layer(x))`` as it is exported: folded, so that not even ties are rounded apart."""
        folded, unit = self._folded(), self.quantizer.unit
        real = folded.weight if unit == 1 else folded.weight * unit
        weight = self.quantizer.rounded(real, self._shaped(folded.scale))
        if unit != 1:  # pixels are the integers that they are in the file
            x = straight_through(torch.round(x.detach() / unit), x / unit)
        return self._applied(x, weight, folded.rounded_bias(self.quantizer))

    def _applied(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        layer = self.layer
        if isinstance(layer, nn.Linear):
            return functional.linear(x, weight, bias)
        if not is_transposed(layer):
            return self._conv_forward(x, weight, bias)
        function = getattr(functional, f"conv_transpose{len(layer.kernel_size)}d")
        settings = (layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
        result: Tensor = function(x, weight, bias, *settings)
        return result


class TableInTraining(nn.Module):
    """A ``function`` of numbers that may be rounded, as its table has it.

    Where one of them is rounded to a pole (0, for an inverse root of what is never quite 0) the
    result is the end of the range; in training it is that of this batch. There is no gradient at
    poles, nor where the function is infinitely steep.
    """

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x = x.view_as(x)  # whose gradient comes from here alone
            x.register_hook(_finite)
        y: Tensor = self.function(x)
        if _is_finite(y.detach()):
            return y
        known = y.detach()[y.isfinite()]
        ends = known.aminmax() if self.function.training and len(known) else (None, None)
        low, high = (None if end is None else float(end) for end in ends)
        return torch.nan_to_num(y, 0.0, high, low)


def _is_finite(x: Tensor) -> bool:
    """Several times as fast as ``torch.isfinite``."""
    return math.isfinite(x.sum())


def _finite(gradient: Tensor) -> Tensor:
    return gradient if _is_finite(gradient) else gradient.nan_to_num(0.0, 0.0, 0.0)


class InEvaluation(nn.Module):
    """``quantizer`` in evaluation: in training what dropout has scaled is out of its range, which
    it neither cuts nor widens."""

    def __init__(self, quantizer: nn.Module) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x if self.quantizer.training else self.quantizer(x)
        return y


class RaisedSteps(nn.Module):
    """Lets the activation quantizers of ``forms`` know what ``steps.py`` makes of their steps.

    In training one batch late, since what an operand is rounded to depends on sums behind it; that
    a layer gives no more than 2^31 steps is seen in evaluation only.
    """

    def __init__(self, forms: Prepared) -> None:
        super().__init__()
        self.forms = forms

    def forward(self) -> None:
        activations = self.forms.activations
        if not all(each.seen for each in activations.values()):
            return
        own = wanted(self.forms)
        chosen = coarsened(self.forms, own)
        for group, quantizer in activations.items():
            same = chosen[group] == own[group]
            quantizer.raised = None if same else chosen[group]


class ExportedLayer(nn.Module):
    """A layer and its norm as they are exported."""

    def __init__(self, layer: FakeQuantizedLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer.exported(x)
