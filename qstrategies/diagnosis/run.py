"""The diagnosis of a run that lies in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qstrategies.datasets.base import Location, Split
from qstrategies.diagnosis.diagnose import Diagnosis, Inputs, diagnose_calibrated
from qstrategies.errors import InputError, check_range
from qstrategies.experiment import dependencies
from qstrategies.experiment.quantized import calibration_batches, prepared_for
from qstrategies.experiment.trained import float_stage, tuned_stage
from qstrategies.experiment.workspace import Workspace, check_config
from qstrategies.files import RUN_FOLDER, check_folder
from qstrategies.guest import guest, own_randomness
from qstrategies.plugins import used
from qstrategies.quantization.calibrate import calibrate, calibration_inputs
from qstrategies.quantization.prepare import Prepared
from qstrategies.records import read_record
from qstrategies.strategies import STRATEGIES
from qstrategies.tasks import CLASSIFICATION

DEFAULT_IMAGES = 1000


@guest
@own_randomness()
def diagnose_run(folder: Path, location: Location, images: int | None = None) -> Diagnosis:
    """Diagnose the post-training quantization of the run in ``folder`` on its first ``images``
    validation images; where it is not said, on 1000 or as many as there are.

    Its float model is read from the stages beside the folder, or trained again.

    Raises:
        InputError: no record there, a damaged one, a failed run, a strategy that trains with its
            quantizers, or one whose data, code or packages changed since.
    """
    check_folder(folder, *RUN_FOLDER)
    record = read_record(folder / RUN_FOLDER[0])
    missing = [name for name in record.used if name not in used()]
    if missing:
        raise InputError(f"{str(folder)!r} was made with {missing[0]!r}: give it with --use")
    config, kind = record.config, STRATEGIES.get(record.config.strategy)
    if kind.course.fake_quantized or record.status != "done":
        why = (
            f"{config.strategy} trains with its quantizers"
            if kind.course.fake_quantized
            else f"it failed: {record.reason}"
        )
        raise InputError(
            f"{str(folder)!r}: only post-training quantization is diagnosed, and {why}"
        )
    check_config(config)
    workspace, strategy = Workspace(folder.parent, location), kind(**config.options)
    now = dependencies.Inputs(workspace.dataset).of_run(config)
    reason = dependencies.changed(record.inputs, now)
    if reason is not None:
        raise InputError(
            f"{str(folder)!r} cannot be diagnosed as it was: {reason}; run it again first"
        )
    dataset = workspace.dataset(config.dataset)
    splits = dataset.splits
    there = len(splits["validation"])
    count = min(DEFAULT_IMAGES, there) if images is None else images
    check_range("number of images", count, 2, there)
    baseline = float_stage(config, workspace)
    model = (tuned_stage(config, workspace, baseline) or baseline).model
    shown: Split = splits["validation"]
    part = shown.first(count)
    batches = calibration_batches(config, splits["train"])

    def calibrated(chosen: Sequence[Inputs]) -> Prepared:
        prepared = prepared_for(config, strategy, model, splits["train"])
        calibrate(prepared, chosen)
        strategy.refine(prepared, [calibration_inputs(prepared, batch, 0) for batch in chosen])
        return prepared

    return diagnose_calibrated(
        model,
        calibrated,
        batches,
        (shown.model_inputs(part.images),),
        part.labels if dataset.task is CLASSIFICATION else None,
        config.quantization,
    )
