"""Interrupting, resuming and reusing must not change any result."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from conftest import small

from qstrategies import source_code
from qstrategies.datasets import DATASETS
from qstrategies.errors import InputError
from qstrategies.experiment import dependencies, runs
from qstrategies.experiment import trained as trained_models
from qstrategies.experiment.comparison import (
    finished_record,
    plan,
    read_records,
    run_all,
)
from qstrategies.experiment.dependencies import TRAINING
from qstrategies.experiment.environment import package_version
from qstrategies.experiment.floating import float_results
from qstrategies.experiment.quantized import calibration_batches
from qstrategies.experiment.runs import run_experiment
from qstrategies.experiment.stages import tensors_sha256
from qstrategies.experiment.tasks import tasks_of, work_of
from qstrategies.experiment.workspace import Workspace
from qstrategies.export.onnx_export import float_file
from qstrategies.files import TEMPORARY, exclusive, sha256
from qstrategies.models import MODELS
from qstrategies.progress import Progress, Work
from qstrategies.records import CHECKS, RECORD, SEAL, Checkpoint
from qstrategies.records.predictions import FILE, Predictions
from qstrategies.strategies import STRATEGIES
from qstrategies.training.loop import History

CONFIGS = [small("no_norm", checks="quick"), small("qat", checks="quick")]


def content(record):
    """A record without what may differ between two runs: times, speeds."""
    curve = tuple(dataclasses.replace(epoch, seconds=0) for epoch in record.curve)
    return dataclasses.replace(record, seconds={}, speeds=(), curve=curve, peak_bytes=0)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, location):
    workspace = Workspace(tmp_path_factory.mktemp("whole"), location)
    return workspace, run_all(CONFIGS, workspace)


def test_an_interrupted_comparison_goes_on_and_ends_the_same(
    uninterrupted, tmp_path, location, monkeypatch
):
    _, expected = uninterrupted

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        first = run_experiment(CONFIGS[0], Workspace(tmp_path, location))
        patch.setattr(runs, "export", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_all(CONFIGS, Workspace(tmp_path, location))
    assert [record.config for record in read_records(tmp_path)] == [CONFIGS[0]], (
        "the finished run is kept, no half one"
    )
    monkeypatch.setattr(
        trained_models, "train", interrupt
    )  # the stage trained before the interruption is not trained again
    resumed = run_all(CONFIGS, Workspace(tmp_path, location))
    assert resumed[0] == first
    assert [content(record) for record in resumed] == [content(record) for record in expected]


def test_no_older_record_lies_beside_the_files_of_a_run_that_was_begun_again(
    uninterrupted, tmp_path, location, monkeypatch
):
    workspace, _ = uninterrupted
    run = shutil.copytree(workspace.folder / CONFIGS[0].run_id, tmp_path / CONFIGS[0].run_id)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "_run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(CONFIGS[0], Workspace(tmp_path, location))
    files = {"model.onnx", "model.fast.onnx", "model.vectors.json", FILE}
    assert {path.name for path in run.iterdir()} == files


def test_a_finished_comparison_is_read_not_run(uninterrupted, location, monkeypatch):
    workspace, expected = uninterrupted
    monkeypatch.setattr(
        "qstrategies.experiment.tasks.run_experiment",
        lambda *arguments: pytest.fail("ran again"),
    )
    assert run_all(CONFIGS, Workspace(workspace.folder, location)) == expected


def test_damaged_records_predictions_and_stages_are_made_again(uninterrupted, tmp_path, location):
    workspace, expected = uninterrupted
    shutil.copytree(workspace.folder, tmp_path / "copy")
    (tmp_path / "copy" / CONFIGS[1].run_id / "record.json").write_text('{"half": ')
    for path in (tmp_path / "copy" / "stages").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-100])
    predictions = tmp_path / "copy" / CONFIGS[0].run_id / "predictions.npz"
    predictions.write_bytes(predictions.read_bytes()[:-100])
    again = run_all(CONFIGS, Workspace(tmp_path / "copy", location))
    assert [content(record) for record in again] == [content(record) for record in expected]
    whole = Predictions.load(workspace.folder / CONFIGS[0].run_id)
    assert np.array_equal(Predictions.load(predictions.parent).test.int8, whole.test.int8)


def test_one_float_model_serves_every_bit_width_and_every_strategy_that_starts_from_it(
    tmp_path, location, monkeypatch
):
    trained = []
    real = trained_models.train

    def counting(trainee, *rest):
        trained.append(type(trainee.strategy).__name__)
        return real(trainee, *rest)

    monkeypatch.setattr(trained_models, "train", counting)
    configs = plan(small("no_norm"), ["no_norm", "qat", "finetune"], [8, 4], [0])
    run_all(
        [dataclasses.replace(config, checks="quick") for config in configs],
        Workspace(tmp_path, location),
    )
    assert sorted(trained) == ["Finetune", "NoNorm", "Qat", "Qat"], (
        "QAT trains per bit width, nothing else does"
    )


class Told(Progress):
    """Keeps the notes that it is given."""

    def __init__(self):
        super().__init__(quiet=True)
        self.notes = []

    def note(self, message):
        self.notes.append(message)


def edit_code(kind):
    def edit(monkeypatch):
        real = source_code.of_object
        other = dataclasses.replace(real(kind), digest="other")
        monkeypatch.setattr(
            source_code, "of_object", lambda thing: other if thing is kind else real(thing)
        )

    return edit


def edit_training(monkeypatch):
    real = source_code.of_modules
    other = dataclasses.replace(real([]), digest="other")
    monkeypatch.setattr(
        source_code,
        "of_modules",
        lambda roots, *own: other if roots == TRAINING else real(roots, *own),
    )


def edit_weights(monkeypatch):
    def init(self, real=MODELS.get("cnn").__init__):
        real(self)
        self.fc.weight.data.mul_(2)

    monkeypatch.setattr(MODELS.get("cnn"), "__init__", init)


def edit_data(monkeypatch):
    monkeypatch.setattr(DATASETS.get("small_mnist"), "content", "other")


def upgrade(monkeypatch):
    monkeypatch.setattr(
        dependencies,
        "package_version",
        lambda name: "99" if name == "onnx" else package_version(name),
    )


@pytest.mark.parametrize(
    ("edit", "reason", "trains_again"),
    [
        (edit_code(MODELS.get("cnn")), "code of model 'cnn' changed since", True),
        (edit_code(STRATEGIES.get("no_norm")), "code of strategy 'no_norm' changed since", True),
        (edit_training, "code of training changed since", True),
        (edit_weights, "layers or initial weights of model 'cnn' changed since", True),
        (edit_data, "data of 'small_mnist' changed since", True),
        (upgrade, "onnx changed since", False),
    ],
)
def test_a_run_whose_inputs_changed_runs_again_and_says_why(
    edit, reason, trains_again, uninterrupted, location, monkeypatch
):
    workspace, finished = uninterrupted
    told = Told()
    key = trained_models.float_stage(CONFIGS[0], workspace).key
    edit(monkeypatch)
    monkeypatch.setattr(
        "qstrategies.experiment.tasks.run_experiment", lambda config, workspace: finished[0]
    )
    run_all(CONFIGS, Workspace(workspace.folder, location, told))
    assert told.notes == [f"run again: {CONFIGS[0].run_id} and 1 more ({reason})"]
    monkeypatch.setattr(trained_models, "train", lambda *arguments: History((), ()))
    assert (
        trained_models.float_stage(CONFIGS[0], Workspace(location.cache / "other", location)).key
        != key
    ) is trains_again


def test_a_record_from_before_inputs_were_noted_down_is_read_but_run_again(
    uninterrupted, location, tmp_path, monkeypatch
):
    workspace, finished = uninterrupted
    shutil.copytree(workspace.folder, tmp_path / "old")
    content = json.loads(finished[0].to_json())
    for name in ("inputs", "classes", SEAL):
        del content[name]
    (tmp_path / "old" / CONFIGS[0].run_id / RECORD).write_text(json.dumps(content))
    assert read_records(tmp_path / "old")[0] == dataclasses.replace(
        finished[0], inputs={}, classes=None
    )
    told = Told()
    monkeypatch.setattr(
        "qstrategies.experiment.tasks.run_experiment", lambda config, workspace: finished[0]
    )
    run_all(CONFIGS, Workspace(tmp_path / "old", location, told))
    assert (
        len(told.notes) == 1 and "when runs did not note down what they depend on" in told.notes[0]
    )


def damage(path):
    data = bytearray(path.read_bytes())
    data[-50] ^= 1  # one bit of one weight
    path.write_bytes(data)


def test_a_stage_with_one_wrong_bit_is_trained_again_with_a_line_that_says_so(
    uninterrupted, location, tmp_path
):
    workspace, _ = uninterrupted
    shutil.copytree(workspace.stages, tmp_path / "stages")
    good = trained_models.float_stage(CONFIGS[0], Workspace(tmp_path, location))
    path = tmp_path / "stages" / f"{good.key[:24]}.safetensors"
    damage(path)
    told = Told()
    again = trained_models.float_stage(CONFIGS[0], Workspace(tmp_path, location, told))
    assert told.notes == [f"trained again: {str(path)!r} is damaged"]
    assert tensors_sha256(again.model.state_dict()) == tensors_sha256(good.model.state_dict())
    for altered in (b'"history":"{', b"loss"):  # what stands beside the tensors counts too
        path.write_bytes(path.read_bytes().replace(altered, altered[:-1] + b"x", 1))
        trained_models.float_stage(CONFIGS[0], Workspace(tmp_path, location, told))
    assert len(told.notes) == 3


def test_a_finished_run_without_its_whole_files_runs_again(uninterrupted, location, tmp_path):
    workspace, finished = uninterrupted
    shutil.copytree(workspace.folder, tmp_path / "copy")
    inputs = dependencies.Inputs(Workspace(workspace.folder, location).dataset)
    assert finished_record(tmp_path / "copy", CONFIGS[0], inputs) == finished[0]
    run = tmp_path / "copy" / CONFIGS[0].run_id
    damage(run / "model.onnx")
    with pytest.raises(InputError, match=r"model.onnx' is not as it was written"):
        finished_record(tmp_path / "copy", CONFIGS[0], inputs)
    (run / "model.onnx").unlink()
    with pytest.raises(InputError, match=r"cannot read .*model.onnx"):
        finished_record(tmp_path / "copy", CONFIGS[0], inputs)


def test_predictions_of_another_run_are_told_apart(uninterrupted, tmp_path):
    workspace, finished = uninterrupted
    shutil.copytree(workspace.folder, tmp_path / "copy")
    one, two = (tmp_path / "copy" / config.run_id / "predictions.npz" for config in CONFIGS)
    shutil.copy(one, two)
    with pytest.raises(
        InputError, match=r"does not belong to its record: \w+ is 0\.\d+ in the record beside it"
    ):
        read_records(tmp_path / "copy")
    with pytest.raises(InputError, match="it has the class 9, the model has 9"):
        Predictions.of(
            dataclasses.replace(finished[0], classes=9), workspace.folder / CONFIGS[0].run_id
        )


def test_two_records_of_one_run_do_not_count_as_two_seeds(uninterrupted, tmp_path):
    workspace, _ = uninterrupted
    shutil.copytree(workspace.folder, tmp_path / "copy")
    shutil.copytree(tmp_path / "copy" / CONFIGS[0].run_id, tmp_path / "copy" / "backup")
    with pytest.raises(InputError, match="are records of the same run: remove one"):
        read_records(tmp_path / "copy")


def test_a_float_file_is_written_once_and_again_if_it_vanished_or_changed(
    uninterrupted, tmp_path, location
):
    shutil.copytree(uninterrupted[0].stages, tmp_path / "stages")
    trained = trained_models.float_stage(CONFIGS[0], Workspace(tmp_path, location))

    def written():
        file = float_results(CONFIGS[0], Workspace(tmp_path, location), trained).file
        assert file.path.parent == tmp_path / "stages"
        assert sha256(file.path.read_bytes()) == file.sha256
        return file

    first = written()
    before = first.path.stat().st_mtime_ns
    assert written() == first and first.path.stat().st_mtime_ns == before
    whole = first.path.read_bytes()
    middle = len(whole) // 2
    changed = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for broken in (b"half", whole[:-9]):
        first.path.write_bytes(broken)
        assert float_file(first.path) is None
    for left in (None, changed):
        first.path.unlink()
        if left is not None:
            first.path.write_bytes(left)
        assert written() == first


def test_the_next_run_sweeps_what_a_killed_one_left(uninterrupted, location):
    workspace, _ = uninterrupted
    left = [
        workspace.folder / place / "x".join(TEMPORARY)
        for place in ("", "stages", CONFIGS[0].run_id)
    ]
    for path in left:
        path.write_bytes(b"half")
    run_all(CONFIGS, Workspace(workspace.folder, location))
    assert not any(path.exists() for path in left)


def test_a_second_writer_is_refused(tmp_path, location):
    with exclusive(tmp_path), pytest.raises(InputError, match="another comparison is writing"):
        run_all(CONFIGS, Workspace(tmp_path, location))


def test_the_plan_checks_everything_before_anything_runs():
    with pytest.raises(InputError, match="Did you mean 'weight_norm'"):
        plan(small("no_norm"), ["no_norm", "weightnorm"], [8], [0])
    with pytest.raises(InputError, match="weight bits 12 is out of range"):
        plan(small("no_norm"), ["no_norm"], [12], [0])
    with pytest.raises(
        InputError, match=r"none of no_norm has the option 'threshold'\. Valid: none"
    ):
        plan(small("no_norm", options={"threshold": 1.0}), ["no_norm"], [8], [0])
    with pytest.raises(InputError, match="unknown model 'cmn'. Did you mean 'cnn'"):
        plan(small("no_norm", model="cmn"), ["no_norm"], [8], [0])
    with pytest.raises(InputError, match="unknown dataset 'mnits'. Did you mean 'mnist'"):
        plan(small("no_norm", dataset="mnits"), ["no_norm"], [8], [0])


def test_the_plan_gives_options_to_those_that_have_them_and_all_runtimes_to_the_widest():
    configs = plan(
        small("no_norm", options={"threshold": 0.5}), ["no_norm", "clamp"], [8, 4], [0, 1]
    )
    assert [
        (config.strategy, config.seed, config.quantization.weight_bits, config.checks)
        for config in configs
    ] == [
        (name, seed, bits, "full" if bits == 8 else "quick")
        for seed in (0, 1)
        for name in ("no_norm", "clamp")
        for bits in (8, 4)
    ]
    assert {config.strategy: config.options for config in configs} == {
        "no_norm": {},
        "clamp": {"threshold": 0.5},
    }


def test_the_plan_draws_calibration_images_for_post_training_strategies_only():
    widths = {"activation_bits": [8, 4], "draws": 2}
    configs = plan(small("no_norm"), ["no_norm", "qat"], [4], [3], **widths)
    found = [(each.strategy, each.quantization.widths, each.calibration_draw) for each in configs]
    expected = [("no_norm", (4, bits), draw) for bits in (8, 4) for draw in (0, 1)]
    assert found == [*expected, ("qat", (4, 8), 0), ("qat", (4, 4), 0)]
    assert [each.checks for each in configs] == ["full", *["quick"] * 3, "full", "quick"]
    assert len({each.run_id for each in configs}) == 6
    assert "-w4a4-s3d1-" in configs[3].run_id


def test_every_seed_and_draw_calibrates_on_other_images(mnist):
    drawn = [
        small("no_norm", seed=seed, calibration_draw=draw)
        for seed in (0, 1, 2**31 - 1)
        for draw in (0, 1, 2)
    ]
    batches = [calibration_batches(config, mnist["train"])[0] for config in drawn]
    assert len({batch.numpy().tobytes() for batch in batches}) == len(drawn)
    assert [config.calibration_seed for config in drawn[::3]] == [0, 1, 2**31 - 1]
    assert all(2**31 <= config.calibration_seed < 2**32 for config in (*drawn[1:3], drawn[4]))


def test_what_is_left_counts_shared_trainings_once():
    configs = plan(small("no_norm"), ["no_norm", "qat", "cle"], [8, 4], [0])
    trainings = {Work("epoch", "no_norm"): 1, Work("QAT epoch", "qat"): 2}
    runs = {Work(f"{kind} run", name): 1 for kind in CHECKS for name in ("no_norm", "qat", "cle")}
    assert work_of(tasks_of(configs)) == {**trainings, **runs}
    given = dataclasses.replace(configs[0], checkpoint=Checkpoint("x.safetensors", "0" * 64))
    assert work_of(tasks_of([given])) == {Work("full run", "no_norm"): 1}


def test_reading_an_empty_folder_is_a_clear_error(tmp_path):
    with pytest.raises(InputError, match="no run records in"):
        read_records(tmp_path)
