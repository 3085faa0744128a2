"""The chain of post-training strategies that calibration data alone picks."""

from __future__ import annotations

import copy

from torch import Tensor, fx

from qstrategies.quantization.prepare import Prepared
from qstrategies.quantization.propagate import RoundingProblem
from qstrategies.quantization.trial import Batches, best_chain, closeness, take, tried
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.adaround import AdaRound
from qstrategies.strategies.base import Course, Strategy
from qstrategies.strategies.bias_correction import BiasCorrection
from qstrategies.strategies.cle import CrossLayerEqualization
from qstrategies.strategies.composed import composed
from qstrategies.strategies.gptq import GPTQ
from qstrategies.strategies.mse_clip import MSEClip
from qstrategies.strategies.no_norm import NoNorm
from qstrategies.strategies.octav import Octav

Part = tuple[str, type[Strategy]]
STAGES: tuple[tuple[Part, ...], ...] = (
    (("cle", CrossLayerEqualization),),
    (("mse_clip", MSEClip), ("octav", Octav)),
    (("gptq", GPTQ), ("adaround", AdaRound)),
    (("bias_correction", BiasCorrection),),
)


@STRATEGIES.register("ptq_best")
class Best(Strategy):
    """Stage by stage the candidate joins the chain with which the outputs of the quantized network
    come closest to the float ones, by the signal-to-noise ratio on the half of the calibration
    batches that it has not seen, if that helps. The chosen chain then gets all batches."""

    summary = "cle, mse_clip or octav, gptq or adaround, bias_correction: what calibration prefers"
    course = Course(parent="no_norm", schedule=None)
    chooses_chain = True

    def rewrite(self, graph: fx.GraphModule) -> None:
        self.forms, self.chosen = copy.deepcopy(graph), _strategy(())

    def refine(self, prepared: Prepared, batches: Batches) -> None:
        close = closeness(prepared, self.forms, batches)
        self.chosen = _strategy(best_chain(STAGES, lambda chain: close(_strategy(chain))))
        take(prepared, tried(prepared, self.forms, self.chosen, batches))

    def round_weights(self, problem: RoundingProblem) -> Tensor:
        return self.chosen.round_weights(problem)

    def correct_bias(self, problem: RoundingProblem, weight: Tensor) -> Tensor:
        return self.chosen.correct_bias(problem, weight)


def _strategy(chain: tuple[Part, ...]) -> Strategy:
    return composed(dict(chain))() if chain else NoNorm()
