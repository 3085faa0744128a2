"""https://arxiv.org/abs/1503.02531: the control for distill, as finetune is that for qat: the float
model trained on for as long with the same teacher (section 2), then post-training quantization."""

from __future__ import annotations

from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Course
from qstrategies.strategies.distill import Distill


@STRATEGIES.register("finetune_distill")
class FinetuneDistill(Distill):
    """What distill gains beyond this is a gain of quantization-aware training."""

    summary = "the baseline trained on in float, its own first state as the teacher, then PTQ"
    group = "baselines"
    course = Course(parent="no_norm", schedule="tuning")
    observer = "min_max"
    options = {name: Distill.options[name] for name in ("temperature", "weight")}
