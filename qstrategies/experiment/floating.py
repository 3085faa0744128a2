"""A float model on the validation and test images, beside which int8 is shown."""

from __future__ import annotations

from dataclasses import dataclass

from qstrategies.evaluation import Evaluation, evaluate
from qstrategies.experiment.checks import figure_entries
from qstrategies.experiment.stages import Stage
from qstrategies.experiment.workspace import Workspace
from qstrategies.export.onnx_export import ExportedModel, export_float_onnx, float_file
from qstrategies.records import ExperimentConfig


@dataclass(frozen=True)
class Floating:
    """The float model on validation and test images, and its ONNX file."""

    evaluations: dict[str, Evaluation]
    file: ExportedModel


def float_results(config: ExperimentConfig, workspace: Workspace, trained: Stage) -> Floating:
    """What the float model of ``trained`` gives: computed once in a process, and exported once in a
    workspace."""
    path = workspace.stages / f"{trained.key[:24]}.float.onnx"
    if path not in workspace.float_results or not path.is_file():
        model, dataset = trained.model, workspace.dataset(config.dataset)
        splits, test = dataset.splits, dataset.splits["test"]
        evaluations = {
            name: evaluate(
                lambda images: model(test.model_inputs(images)), splits[name], dataset.task
            )
            for name in ("validation", "test")
        }
        exported = float_file(path) or export_float_onnx(
            model,
            test.shape,
            path,
            figure_entries(dataset.task, evaluations["test"].accuracy),
            dtype=test.first(1).images.dtype,
            input_scale=test.input_scale,
        )
        workspace.float_results[path] = evaluations, exported
    return Floating(*workspace.float_results[path])
