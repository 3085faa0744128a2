"""What only acts in training: kept for QAT, gone when the quantizers are decided."""

from __future__ import annotations

import copy
from random import Random
from typing import Any

from torch import fx, nn
from torch.nn import functional

from qstrategies.operators.base import FORMS, Call, Form, Node, Placing, Site, recognizes
from qstrategies.operators.drawing import Applied, Sizes, draws, happens

DROPOUTS: dict[Any, Any] = {
    functional.dropout: nn.Dropout,
    functional.dropout1d: nn.Dropout1d,
    functional.dropout2d: nn.Dropout2d,
    functional.dropout3d: nn.Dropout3d,
    functional.alpha_dropout: nn.AlphaDropout,
    functional.feature_alpha_dropout: nn.FeatureAlphaDropout,
}


def _gone(site: Site) -> Node:
    raise AssertionError(f"{site.output.name}: exact_forms drops what does nothing in evaluation")


for _kind in DROPOUTS.values():
    FORMS[_kind] = Form(placing=Placing.SHARED, node=_gone, homogeneous=True, moves=True)


@recognizes(*DROPOUTS.values())
def _module(call: Call, module: nn.Module, x: fx.Node) -> fx.Node:
    return call.emit(copy.deepcopy(module), x)


def _register(function: Any, kind: Any) -> None:
    @recognizes(function)
    def _functional(
        call: Call, input: fx.Node, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> fx.Node:
        return call.emit(kind(p), input)


for _each, _kind in DROPOUTS.items():
    _register(_each, _kind)


@draws()
def _draw(random: Random, shape: Sizes) -> nn.Module:
    any_size = [nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout]
    by_size = {2: nn.Dropout1d, 3: nn.Dropout2d, 4: nn.Dropout3d}
    kind = random.choice([*any_size, by_size.get(len(shape), nn.Dropout)])
    kinds = {kind: function for function, kind in DROPOUTS.items()}
    if happens(random, 0.5):
        return kind(0.3, happens(random, 0.3))
    return Applied(kinds[kind], 0.3, training=False)
