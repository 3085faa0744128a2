"""What a strategy may decide in quantization. Every hook does nothing by default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, fx

if TYPE_CHECKING:
    from qstrategies.quantization.activation_quantizers import ActivationQuantizer
    from qstrategies.quantization.blocks import BlockProblem
    from qstrategies.quantization.integer_graph import IntegerGraph
    from qstrategies.quantization.prepare import Prepared
    from qstrategies.quantization.propagate import RoundingProblem
    from qstrategies.quantization.qat import FakeQuantizedModel
    from qstrategies.quantization.quantizers import QuantizerSite, WeightQuantizer


class Recipe:
    """Asked on the way from a graph of forms to integers, in the order of the methods."""

    def rewrite(self, graph: fx.GraphModule) -> None:
        """Change the float weights so that the function stays and the ranges improve. In place,
        before quantizers are placed.

        Batch normalization is folded, but under QAT, where it stays: there the function of training
        must stay too, and what ``refine`` would choose comes too late.
        """

    def weight_bits(
        self, prepared: Prepared, batches: Sequence[tuple[Tensor, ...]]
    ) -> Mapping[str, int]:
        """The bits of the weights of layers, by name; those of the configuration for all others.

        ``prepared`` has quantizers with the bits of the configuration and no ranges yet;
        ``batches`` are inputs as its graph takes them. Under QAT asked before training.
        """
        return {}

    def weight_quantizer(
        self, site: QuantizerSite, default: WeightQuantizer
    ) -> WeightQuantizer | None:
        """The quantizer of the layer at ``site``; None leaves the layer in float."""
        return default

    def activation_quantizer(
        self, site: QuantizerSite, default: ActivationQuantizer
    ) -> ActivationQuantizer:
        """The quantizer of the tensors at ``site``."""
        return default

    def begin(self, model: FakeQuantizedModel, start: IntegerGraph) -> None:
        """Take over what post-training quantization by this recipe would give, ``start``, before
        ``model`` is trained. In place; asked under QAT only."""

    def settle(self, model: FakeQuantizedModel, batches: Sequence[tuple[Tensor, ...]]) -> None:
        """Change what was trained with fake quantizers before batch normalization is folded. In
        place; ``batches`` as for ``refine``."""

    def refine(self, prepared: Prepared, batches: Sequence[tuple[Tensor, ...]]) -> None:
        """Adjust calibrated or trained forms before they are rounded. In place.

        ``batches`` are those of the calibration; none where the user gives none after QAT.
        """

    def round_weights(self, problem: RoundingProblem) -> Tensor:
        """The integers of a layer's weight, in [low, high], of its shape."""
        return problem.nearest()

    def round_block(self, problem: BlockProblem) -> Mapping[str, Tensor]:
        """The integers of the weights of all layers of a block, by the names of their nodes, each
        as of ``round_weights``; not asked where there are no calibration batches."""
        return {name: layer.nearest() for name, layer in problem.layers.items()}

    def correct_bias(self, problem: RoundingProblem, weight: Tensor) -> Tensor:
        """The real bias [out_channels] of a layer whose real ``weight`` is on its grid now."""
        return problem.bias


NOTHING = Recipe()
"""Round to nearest on observed ranges."""


def overrides(recipe: Recipe, hook: str, base: type[Recipe] = Recipe) -> bool:
    """Whether ``recipe`` does something at ``hook``, where ``base`` does nothing."""
    return getattr(type(recipe), hook) is not getattr(base, hook)


def sees_batches(recipe: Recipe) -> bool:
    """Whether ``recipe`` looks at calibration batches, which then are kept."""
    looks = any(overrides(recipe, hook) for hook in ("weight_bits", "refine"))
    return looks or overrides_rounding(recipe)


def sees_batches_first(recipe: Recipe) -> bool:
    """Whether ``recipe`` looks at calibration batches before training with fake quantizers."""
    return any(overrides(recipe, hook) for hook in ("weight_bits", "begin"))


CHOOSE_INTEGERS = ("round_weights", "round_block")


def overrides_rounding(recipe: Recipe) -> bool:
    """Whether ``recipe`` chooses integers or biases by what layers give."""
    return any(overrides(recipe, hook) for hook in (*CHOOSE_INTEGERS, "correct_bias"))
