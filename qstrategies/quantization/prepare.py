"""Float model -> FX graph with observers (PTQ) or fake quantizers (QAT), in our qconfig."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.ao.nn.intrinsic import qat as nniqat
from torch.ao.quantization import FakeQuantizeBase, QConfig, QConfigMapping
from torch.ao.quantization.backend_config import BackendConfig, get_native_backend_config
from torch.ao.quantization.observer import ObserverBase
from torch.ao.quantization.quantize_fx import prepare_fx, prepare_qat_fx

from qstrategies.quantization.observers import (
    ACTIVATION_OBSERVERS,
    ActivationFakeQuantize,
    FixedQuantizer,
    WeightFakeQuantize,
)
from qstrategies.records import QuantizationConfig


class _FoldedForward:
    """The forward of torch's fused conv-BN QAT modules, with the BN factor divided out of the weight, not the output.

    torch computes ``BN(conv(x, FQ(f w)) / f + b)`` with ``f = gamma / running_std`` per output channel; convolution is
    linear, so ``BN(conv(x, FQ(f w) / f, b))`` is the same function without two passes over the activations. ``f`` is
    detached: ``FQ(f w) / f`` with a scale proportional to max |f w| does not depend on it.
    """

    def _forward_approximate(self, x: Tensor) -> Tensor:
        return self.bn(self.before_norm(x))  # type: ignore[attr-defined]

    def before_norm(self, x: Tensor) -> Tensor:
        """``conv(x, FQ(f w) / f, b)``."""
        bn, weight = self.bn, self.weight  # type: ignore[attr-defined]
        factor = (bn.weight / torch.sqrt(bn.running_var + bn.eps)).detach()
        factor = factor.reshape(-1, *[1] * (weight.dim() - 1))
        folded = self.weight_fake_quant(weight * factor)  # type: ignore[attr-defined]
        return self._conv_forward(x, folded / factor, self.bias)  # type: ignore[attr-defined]


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
    """torch's native backend with our fused QAT modules in place of its own."""
    config = get_native_backend_config()
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


def prepare(model: nn.Module, config: QuantizationConfig, example: Tensor, *, input_scale: float, qat: bool) -> fx.GraphModule:
    """A copy of ``model`` as an FX graph with observers or, for QAT, fake quantizers. ``model`` is not changed.

    Args:
        example: one input batch, real-valued.
        input_scale: the real value of one pixel step (1 / 255 for images in [0, 1]).
    """
    function = prepare_qat_fx if qat else prepare_fx
    mapping = QConfigMapping().set_global(qconfig(config, qat=qat))
    copied = copy.deepcopy(model).cpu().train(qat)
    prepared = function(copied, mapping, (example,), backend_config=backend_config())
    _quantize_input(prepared, input_scale)
    return prepared


def _quantize_input(prepared: fx.GraphModule, scale: float) -> None:
    for entry in input_quantizers(prepared):
        prepared.set_submodule(str(entry.target), FixedQuantizer(scale))
        for user in entry.users:
            quantizer = getattr(called(prepared, user), "weight_fake_quant", None)
            if quantizer is not None:
                quantizer.unit = scale


def input_quantizers(prepared: fx.GraphModule) -> list[fx.Node]:
    """The nodes that observe a placeholder."""
    return [user for node in prepared.graph.nodes if node.op == "placeholder" for user in node.users if is_quantizer(prepared, user)]


def is_quantizer(prepared: fx.GraphModule, node: fx.Node) -> bool:
    """Whether ``node`` calls an observer or a fake quantizer."""
    return node.op == "call_module" and isinstance(called(prepared, node), (ObserverBase, FakeQuantizeBase))


def called(prepared: fx.GraphModule, node: Any) -> Any:
    """The module that ``node`` calls. Its attributes depend on its kind, so that its static type would not help."""
    return prepared.get_submodule(str(node.target))
