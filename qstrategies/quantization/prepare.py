"""Float model -> FX graph with observers (PTQ) or fake quantizers (QAT), in our qconfig."""

from __future__ import annotations

import copy
import functools
from collections.abc import Collection

import torch
from torch import Tensor, fx, nn
from torch.ao.nn.intrinsic import qat as nniqat
from torch.ao.quantization import QConfig, QConfigMapping
from torch.ao.quantization.backend_config import (
    BackendConfig,
    BackendPatternConfig,
    DTypeConfig,
    ObservationType,
    get_native_backend_config,
)
from torch.ao.quantization.fx.custom_config import PrepareCustomConfig
from torch.ao.quantization.quantize_fx import prepare_fx, prepare_qat_fx

from qstrategies.quantization.exact_forms import Elementwise, exact_forms, left_in_float
from qstrategies.quantization.graph import called, input_quantizers, moved_from, observe_inputs, share_observers
from qstrategies.quantization.observers import (
    ACTIVATION_OBSERVERS,
    ActivationFakeQuantize,
    PixelQuantizer,
    WeightFakeQuantize,
)
from qstrategies.quantization.saturation import relu6_to_saturation, saturate
from qstrategies.records import QuantizationConfig


class _FoldedForward:
    """The forward of torch's fused conv-BN QAT modules, with the BN factor divided out of the weight, not the output.

    torch computes ``BN(conv(x, FQ(f w)) / f + b)`` with ``f = gamma / running_std`` per output channel; convolution is
    linear, so ``BN(conv(x, FQ(f w) / f, b))`` is the same function without two passes over the activations. ``f`` is
    detached: ``FQ(f w) / f`` with a scale proportional to max |f w| does not depend on it.
    """

    def _forward_approximate(self, x: Tensor) -> Tensor:
        return self.bn(self._conv_forward(x, self.weight_before_norm(), self.bias))  # type: ignore[attr-defined]

    def weight_before_norm(self) -> Tensor:
        """``FQ(f w) / f``."""
        bn, weight = self.bn, self.weight  # type: ignore[attr-defined]
        factor = (bn.weight / torch.sqrt(bn.running_var + bn.eps)).detach()
        factor = factor.reshape(-1, *[1] * (weight.dim() - 1))
        return self.weight_fake_quant(weight * factor) / factor  # type: ignore[attr-defined]


class ConvBn1d(_FoldedForward, nniqat.ConvBn1d):
    pass


class ConvBnReLU1d(_FoldedForward, nniqat.ConvBnReLU1d):
    pass


class ConvBn2d(_FoldedForward, nniqat.ConvBn2d):
    pass


class ConvBnReLU2d(_FoldedForward, nniqat.ConvBnReLU2d):
    pass


_FUSED = {base: cls for cls in (ConvBn1d, ConvBnReLU1d, ConvBn2d, ConvBnReLU2d) for base in (cls.__mro__[2],)}


@functools.cache
def backend_config() -> BackendConfig:
    """torch's native backend with our fused QAT modules in place of its own, and tables for functions of one number."""
    config = get_native_backend_config()
    elementwise = BackendPatternConfig(Elementwise).set_observation_type(ObservationType.OUTPUT_USE_DIFFERENT_OBSERVER_AS_INPUT)
    config.set_backend_pattern_config(elementwise.add_dtype_config(DTypeConfig(torch.quint8, torch.quint8)))
    for pattern in config.configs:
        if pattern.qat_module in _FUSED:
            pattern.set_qat_module(_FUSED[pattern.qat_module])
        if pattern.pattern in _FUSED:
            ours = copy.copy(pattern)
            ours.pattern = _FUSED[pattern.pattern]
            config.set_backend_pattern_config(ours)
    return config


def qconfig(config: QuantizationConfig, *, qat: bool) -> QConfig:
    """The QConfig of every layer; PTQ decides weight scales in ``finalize`` by the same quantizer."""
    quant_max = 127 if config.reduce_range else 255
    observer = ACTIVATION_OBSERVERS[config.observer or "min_max", config.exact]
    arguments = {"dtype": torch.quint8, "qscheme": torch.per_tensor_affine, "quant_min": 0, "quant_max": quant_max}
    activation = observer.with_args(**arguments)
    if qat:
        activation = ActivationFakeQuantize.with_args(observer=observer, **arguments)
    weight = WeightFakeQuantize.with_args(bits=config.weight_bits, per_channel=config.per_channel, exact=config.exact, levels=256)
    return QConfig(activation=activation, weight=weight)


def prepare(
    model: nn.Module,
    config: QuantizationConfig,
    example: tuple[Tensor, ...],
    *,
    qat: bool,
    input_scale: float | None = None,
    leave_in_float: Collection[str | type[nn.Module]] = (),
) -> fx.GraphModule:
    """A copy of ``model`` as an FX graph with observers or, for QAT, fake quantizers. ``model`` is not changed.

    Args:
        example: one batch per input, real-valued.
        input_scale: the real value of one step of the inputs where it is known (1 / 255 for pixels in [0, 1]); None to
            observe their range.
        leave_in_float: names or types of modules to leave unquantized.

    Raises:
        InputError: a module that cannot be traced, or a name in ``leave_in_float`` that the model has not.
    """
    copied = copy.deepcopy(model).cpu().train(qat)
    left = left_in_float(copied, leave_in_float)
    traced = exact_forms(copied, example, left, pixels=input_scale is not None)
    saturating = relu6_to_saturation(traced, left) if config.exact and not config.reduce_range and not qat else []
    mapping = QConfigMapping().set_global(qconfig(config, qat=qat))
    for name in left:
        mapping.set_module_name(name, None)
    custom = PrepareCustomConfig().set_non_traceable_module_names(left).set_non_traceable_module_classes([Elementwise])
    function = prepare_qat_fx if qat else prepare_fx
    prepared = function(traced, mapping, example, prepare_custom_config=custom, backend_config=backend_config())
    observe_inputs(prepared, backend_config(), qconfig(config, qat=qat).activation)
    share_observers(prepared, backend_config())
    saturate(prepared, saturating)
    if input_scale is not None:
        _quantize_input(prepared, input_scale)
    return prepared


def _quantize_input(prepared: fx.GraphModule, scale: float) -> None:
    for entry in input_quantizers(prepared):
        moved = moved_from(prepared, entry)
        for node in (entry, *moved.quantizers):
            prepared.set_submodule(str(node.target), PixelQuantizer(scale))
        for user in moved.readers:
            quantizer = getattr(called(prepared, user), "weight_fake_quant", None) if user.op == "call_module" else None
            if quantizer is not None:
                quantizer.unit = scale
