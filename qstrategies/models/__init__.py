"""Network architectures, one file each. A model takes images scaled to [0, 1] and returns
logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qstrategies.registry import Registry

if TYPE_CHECKING:
    from torch import nn

# A factory, as a class, or a module that is trained already.
MODELS: Registry[Callable[[], nn.Module]] = Registry("model", __name__)
register = MODELS.register
