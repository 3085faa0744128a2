"""What only acts in training: kept for QAT, gone when the quantizers are decided."""

from __future__ import annotations

import copy
from random import Random
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from qstrategies.operators.base import FORMS, Call, Form, Node, Placing, Site, recognizes
from qstrategies.operators.drawing import Applied, Sizes, draws, happens, spelling


class Detached(nn.Module):
    """Lets no gradient pass."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


class Scattered(nn.Module):
    """``module`` of the user's, which in training multiplies what it is given by numbers that are
    not negative, and in evaluation gives it back: stochastic depth."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        scattered: Tensor = self.module(x)
        return scattered


DROPOUTS: dict[Any, Any] = {
    torch.dropout: nn.Dropout,
    torch.alpha_dropout: nn.AlphaDropout,
    functional.dropout: nn.Dropout,
    functional.dropout1d: nn.Dropout1d,
    functional.dropout2d: nn.Dropout2d,
    functional.dropout3d: nn.Dropout3d,
    functional.alpha_dropout: nn.AlphaDropout,
    functional.feature_alpha_dropout: nn.FeatureAlphaDropout,
}


SCATTERING = (nn.modules.dropout._DropoutNd, Scattered)
TRAINING_ONLY = (*SCATTERING, Detached)


def _gone(site: Site) -> Node:
    raise AssertionError(f"{site.output.name}: exact_forms drops what does nothing in evaluation")


for _kind in (*dict.fromkeys(DROPOUTS.values()), Detached, Scattered):
    FORMS[_kind] = Form(placing=Placing.SHARED, node=_gone, homogeneous=True, moves=True)


@recognizes(*dict.fromkeys(DROPOUTS.values()))
def _module(call: Call, module: nn.Module, x: fx.Node) -> fx.Node:
    return call.emit(copy.deepcopy(module), x)


@recognizes("detach", torch.detach)
def _detach(call: Call, input: fx.Node) -> fx.Node:
    return call.emit(Detached(), input)


def _register(function: Any, kind: Any) -> None:
    @recognizes(function)
    def _functional(
        call: Call,
        input: fx.Node,
        p: float = 0.5,
        training: bool = True,
        inplace: bool = False,
        *,
        train: bool = True,
    ) -> fx.Node:
        return call.emit(kind(p), input)


for _each, _kind in DROPOUTS.items():
    _register(_each, _kind)


@draws(often=2)
def _draw(random: Random, shape: Sizes) -> nn.Module:
    any_size = [nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout]
    by_size = {2: nn.Dropout1d, 3: nn.Dropout2d, 4: nn.Dropout3d}
    own = by_size.get(len(shape), nn.Dropout)
    kind = random.choice([*any_size, *[own] * 3])  # volumes are rare
    if happens(random, 0.5):
        return kind(0.3, happens(random, 0.3))
    functions = [function for function, known in DROPOUTS.items() if known is kind]
    return Applied(random.choice(functions), 0.3, False)


class WholeExamples(nn.Module):
    """Stochastic depth: drops whole examples in training (Huang et al., arXiv 1603.09382)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand(len(x), *[1] * (x.dim() - 1)) > 0.3) if self.training else x


@draws()
def _draw_scattering(random: Random, _: Sizes) -> nn.Module:
    return WholeExamples()


@draws()
def _draw_detached(random: Random, _: Sizes) -> nn.Module:
    return Applied(spelling(random, _detach))
