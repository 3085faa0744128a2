"""Interrupting, resuming and reusing must not change any result."""

import dataclasses
import shutil

import numpy as np
import pytest
from conftest import small

from qstrategies import pipeline
from qstrategies.comparison import expected_seconds, plan, read_records, run_all
from qstrategies.errors import InputError
from qstrategies.files import exclusive
from qstrategies.pipeline import Workspace, run_experiment
from qstrategies.predictions import Predictions
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Strategy

CONFIGS = [small("no_norm", checks="quick"), small("qat", checks="quick")]


def content(record):
    """A record without what may differ between two runs: times, speeds."""
    curve = tuple(dataclasses.replace(epoch, seconds=0) for epoch in record.curve)
    return dataclasses.replace(record, seconds={}, speeds=(), curve=curve, peak_bytes=0)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, location):
    workspace = Workspace(tmp_path_factory.mktemp("whole"), location)
    return workspace, run_all(CONFIGS, workspace)


def test_an_interrupted_comparison_goes_on_and_ends_the_same(uninterrupted, tmp_path, location, monkeypatch):
    _, expected = uninterrupted

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        first = run_experiment(CONFIGS[0], Workspace(tmp_path, location))
        patch.setattr(pipeline, "_export", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_all(CONFIGS, Workspace(tmp_path, location))
    assert [record.config for record in read_records(tmp_path)] == [CONFIGS[0]], "the finished run is kept, no half one"
    monkeypatch.setattr(pipeline, "train", interrupt)  # the stage trained before the interruption is not trained again
    resumed = run_all(CONFIGS, Workspace(tmp_path, location))
    assert resumed[0] == first
    assert [content(record) for record in resumed] == [content(record) for record in expected]


def test_a_finished_comparison_is_read_not_run(uninterrupted, location, monkeypatch):
    workspace, expected = uninterrupted
    monkeypatch.setattr("qstrategies.comparison.run_experiment", lambda *arguments: pytest.fail("ran again"))
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


def test_one_float_model_serves_every_bit_width_and_every_strategy_that_starts_from_it(tmp_path, location, monkeypatch):
    trained = []
    real = pipeline.train

    def counting(model, strategy, *rest):
        trained.append(type(strategy).__name__)
        return real(model, strategy, *rest)

    monkeypatch.setattr(pipeline, "train", counting)
    configs = plan(small("no_norm"), ["no_norm", "qat", "finetune"], [8, 4], [0])
    run_all([dataclasses.replace(config, checks="quick") for config in configs], Workspace(tmp_path, location))
    assert sorted(trained) == ["Finetune", "NoNorm", "Qat", "Qat"], "QAT trains per bit width, nothing else does"


def test_edited_code_of_a_strategy_is_trained_again(uninterrupted, location, monkeypatch):
    workspace, _ = uninterrupted
    again = Workspace(workspace.folder, location)
    key = pipeline.float_stage(CONFIGS[0], again).key
    edited = type("Edited", (Strategy,), {"__module__": "nowhere"})
    assert len({pipeline.source(kind) for kind in (STRATEGIES.get("clamp"), STRATEGIES.get("qat_clamp"), edited)}) == 3
    monkeypatch.setattr(pipeline, "source", lambda kind: "edited")
    assert pipeline.float_stage(CONFIGS[0], again).key != key


def test_a_second_writer_is_refused(tmp_path, location):
    with exclusive(tmp_path), pytest.raises(InputError, match="another comparison is writing"):
        run_all(CONFIGS, Workspace(tmp_path, location))


def test_the_plan_checks_everything_before_anything_runs():
    with pytest.raises(InputError, match="Did you mean 'weight_norm'"):
        plan(small("no_norm"), ["no_norm", "weightnorm"], [8], [0])
    with pytest.raises(InputError, match="weight bits 12 is out of range"):
        plan(small("no_norm"), ["no_norm"], [12], [0])
    with pytest.raises(InputError, match=r"none of no_norm has the option 'threshold'\. Valid: none"):
        plan(small("no_norm", options={"threshold": 1.0}), ["no_norm"], [8], [0])
    with pytest.raises(InputError, match="unknown model 'cmn'. Did you mean 'cnn'"):
        plan(small("no_norm", model="cmn"), ["no_norm"], [8], [0])
    with pytest.raises(InputError, match="unknown dataset 'mnits'. Did you mean 'mnist'"):
        plan(small("no_norm", dataset="mnits"), ["no_norm"], [8], [0])


def test_the_plan_gives_options_to_those_that_have_them_and_all_runtimes_to_the_widest():
    configs = plan(small("no_norm", options={"threshold": 0.5}), ["no_norm", "clamp"], [8, 4], [0, 1])
    assert [(config.strategy, config.seed, config.quantization.weight_bits, config.checks) for config in configs] == [
        (name, seed, bits, "full" if bits == 8 else "quick") for seed in (0, 1) for name in ("no_norm", "clamp") for bits in (8, 4)
    ]
    assert {config.strategy: config.options for config in configs} == {"no_norm": {}, "clamp": {"threshold": 0.5}}


def test_expected_time_counts_shared_stages_once():
    one, two = (plan(small("no_norm"), ["no_norm"], bits, [0]) for bits in ([8], [8, 4]))
    assert 0 < expected_seconds(two) - expected_seconds(one) < expected_seconds(one)


def test_reading_an_empty_folder_is_a_clear_error(tmp_path):
    with pytest.raises(InputError, match="no run records in"):
        read_records(tmp_path)
