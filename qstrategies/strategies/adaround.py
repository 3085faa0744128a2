"""AdaRound: weights rounded up or down by what the layer gives (Nagel et al.,
https://arxiv.org/abs/2004.10568)."""

from __future__ import annotations

from torch import Tensor

from qstrategies.quantization.propagate import RoundingProblem
from qstrategies.quantization.regression import sampled
from qstrategies.quantization.soft_rounding import Settings, up_or_down
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Course, Option, Strategy


@STRATEGIES.register("adaround")
class AdaRound(Strategy):
    """``min over V of |f(W x) - f(W~ x^)|^2 + strength sum(1 - |2 h(V) - 1|^beta)`` (equation 25)
    with ``W~ = s clip(floor(W / s) + h(V), low, high)``, layer by layer: ``x^`` of the network
    rounded so far, ``W x`` of the float one, ``f`` the ReLU that follows.

    The error is in units of the outputs' variance, as behind a batch normalization, so that
    ``strength`` means the same in every layer. Published: 10 000 steps at rate 0.001; here a fifth
    of the steps at ten times the rate, at sampled places instead of whole images.
    """

    summary = "weights rounded up or down by what each layer gives (AdaRound), without training"
    paper = "https://arxiv.org/abs/2004.10568"
    course = Course(parent="no_norm", schedule=None)
    options = {
        "rounding_steps": Option(2000, 1, 1e5, "steps of Adam per layer"),
        "rounding_rate": Option(0.01, 1e-6, 1, "learning rate"),
        "rounding_strength": Option(0.01, 0, 1e3, "of the regularizer"),
        "warm_up": Option(0.2, 0, 0.99, "part of the steps without it"),
        "places": Option(256, 1, 1e5, "of the output per step"),
    }

    def round_weights(self, problem: RoundingProblem) -> Tensor:
        if not problem.pairs:
            return problem.nearest()
        settings = Settings(
            steps=int(self.values["rounding_steps"]),
            rate=self.values["rounding_rate"],
            strength=self.values["rounding_strength"],
            warm_up=self.values["warm_up"],
            places=int(self.values["places"]),
        )
        return up_or_down(problem, sampled(problem), settings)
