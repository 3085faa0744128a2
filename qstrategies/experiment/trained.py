"""The trained models of a configuration, each kept as a stage."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

from torch import nn

from qstrategies.experiment import environment
from qstrategies.experiment.checkpoint import fill, is_trained
from qstrategies.experiment.dependencies import Inputs, fresh_model
from qstrategies.experiment.fit import check_fit
from qstrategies.experiment.quantized import calibration_batches, example
from qstrategies.experiment.stages import Stage, stage
from qstrategies.experiment.workspace import Workspace
from qstrategies.pixels import Normalized
from qstrategies.progress import Work
from qstrategies.quantization.copies import copy_of
from qstrategies.quantization.qat import prepare_qat
from qstrategies.quantization.recipe import sees_batches_first
from qstrategies.records import (
    Epoch,
    ExperimentConfig,
    TrainingConfig,
    content_key,
)
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import BASELINE, Strategy
from qstrategies.text import file_name
from qstrategies.training.loop import History, train
from qstrategies.training.trainee import Trainee


def epoch_of(strategy: str) -> Work:
    """The work of one epoch of ``strategy``."""
    quantized = STRATEGIES.get(strategy).course.fake_quantized
    return Work("QAT epoch" if quantized else "epoch", strategy)


def parent_of(config: ExperimentConfig) -> str:
    """The strategy that trains the float model: its own, or the one that it starts from."""
    return STRATEGIES.get(config.strategy).course.parent or config.strategy


def _parent(config: ExperimentConfig) -> Strategy:
    kind = STRATEGIES.get(parent_of(config))
    return kind(**{name: each for name, each in config.options.items() if name in kind.options})


def float_settings(config: ExperimentConfig) -> dict[str, Any]:
    """What the float model of ``config`` is trained with."""
    return {
        "strategy": parent_of(config),
        "options": _parent(config).values,
        "training": dataclasses.asdict(config.training),
    }


def tuned_settings(config: ExperimentConfig) -> dict[str, Any] | None:
    """What is added to that model; None if nothing is trained."""
    course = STRATEGIES.get(config.strategy).course
    if course.parent is None or course.schedule is None:
        return None
    strategy = STRATEGIES.get(config.strategy)(**config.options)
    schedule: TrainingConfig = getattr(config, course.schedule)
    settings: dict[str, Any] = {
        "strategy": config.strategy,
        "options": strategy.values,
        "training": dataclasses.asdict(schedule),
    }
    if course.fake_quantized:
        shape = dataclasses.asdict(strategy.resolved(config.quantization))
        seen = shape["calibration_images"] if sees_batches_first(strategy) else 0
        settings["quantization"] = {**shape, "engine": "", "calibration_images": seen}
        settings["calibration_draw"] = config.calibration_draw if seen else 0
    return settings


def float_inputs(config: ExperimentConfig, workspace: Workspace) -> dict[str, Any]:
    """All that the float model of ``config`` depends on."""
    if is_trained(config):
        inputs = Inputs(workspace.dataset).of_training(config, BASELINE)
        return {"given": config.model, "inputs": inputs}
    return _common(config, workspace, parent_of(config)) | float_settings(config)


def tuned_inputs(
    config: ExperimentConfig, workspace: Workspace, float_key: str
) -> dict[str, Any] | None:
    """All that the model which continues that of ``float_key`` depends on; None if nothing is
    trained."""
    settings = tuned_settings(config)
    if settings is None:
        return None
    return _common(config, workspace, config.strategy) | {"parent": float_key} | settings


def float_stage(config: ExperimentConfig, workspace: Workspace) -> Stage:
    """The float model of the strategy itself, or of the one that it starts from."""
    if is_trained(config):
        return _given(config, workspace)
    recipe = parent_of(config)
    strategy = _parent(config)
    depends_on = float_inputs(config, workspace)

    def build() -> nn.Module:
        return model_for(config, workspace)

    trainer = _trainer(config, workspace, strategy, config.training, epoch_of(recipe))
    return stage(workspace.stages, depends_on, build, trainer, workspace.progress.note)


def _given(config: ExperimentConfig, workspace: Workspace) -> Stage:
    """The float model that is trained already."""
    model = model_for(config, workspace)
    key = content_key(float_inputs(config, workspace))
    return Stage(model.eval(), History((), ()), key)


def tuned_stage(config: ExperimentConfig, workspace: Workspace, baseline: Stage) -> Stage | None:
    """What the strategy adds to the float model it starts from; None if it adds no training."""
    depends_on = tuned_inputs(config, workspace, baseline.key)
    if depends_on is None:
        return None
    kind = STRATEGIES.get(config.strategy)
    course, strategy = kind.course, kind(**config.options)
    schedule: TrainingConfig = getattr(config, str(course.schedule))

    def build() -> nn.Module:
        fresh = course.fresh
        model = model_for(config, workspace) if fresh else copy_of(baseline.model)
        if not course.fake_quantized:
            return model
        quantization = strategy.resolved(config.quantization)
        split = workspace.dataset(config.dataset).splits["train"]
        return prepare_qat(
            model,
            quantization,
            example(split),
            recipe=strategy,
            input_scale=split.scale,
            calibration=calibration_batches(config, split),
        )

    trainer = _trainer(config, workspace, strategy, schedule, epoch_of(config.strategy))
    return stage(workspace.stages, depends_on, build, trainer, workspace.progress.note)


def model_for(config: ExperimentConfig, workspace: Workspace) -> nn.Module:
    """The fresh model of ``config``, or that of its checkpoint, which normalizes pixels itself
    where the dataset asks for it.

    Raises ``InputError`` if it does not take what the dataset gives.
    """
    dataset = workspace.dataset(config.dataset)
    model = fresh_model(config.model, config.seed)
    if config.start is not None:
        fill(model, config.start)
    if dataset.normalization is not None:
        model = Normalized(model, dataset.normalization, len(dataset.input_shape))
    check_fit(model, config, dataset)
    return model


def _common(config: ExperimentConfig, workspace: Workspace, strategy: str) -> dict[str, Any]:
    here = environment.describe()
    return {
        "model": config.model,
        "dataset": config.dataset,
        "seed": config.seed,
        "inputs": Inputs(workspace.dataset).of_training(config, strategy),
        "threads": here["threads"],
        "device": here["device"],
        "training_dtype": here["training_dtype"],
        "machine": here["machine"],
        "cpu_flags": here["cpu_flags"],
    }


def _trainer(
    config: ExperimentConfig,
    workspace: Workspace,
    strategy: Strategy,
    schedule: TrainingConfig,
    work: Work,
) -> Callable[[nn.Module, str], History]:
    width = f" {config.quantization.width}" if strategy.course.fake_quantized else ""
    label = work.strategy + width
    dataset = workspace.dataset(config.dataset)
    task = dataset.task

    def run(model: nn.Module, key: str) -> History:
        def report(number: int, epoch: Epoch) -> None:
            text = (
                f"{label} seed {config.seed}: epoch {number} of {schedule.epochs}, loss "
                f"{epoch.loss:.4f}, validation {task.measure.shown(epoch.accuracy)}"
            )
            workspace.progress.advance(work, text)
            for listener in listeners:
                listener(number, epoch)

        name = f"{file_name(label.replace(' ', '-'))}-s{config.seed}-{key[:8]}"
        with contextlib.ExitStack() as stack:
            listeners = [
                stack.enter_context(tracker.training(name)) for tracker in workspace.trackers
            ]
            trainee, splits = Trainee(model, strategy), dataset.splits
            workspace.progress.begin()
            return train(trainee, splits, schedule, config.seed, report, task)

    return run
