"""From an own checkpoint: strategies start from it, nothing is trained in float, and what does not
fit is named."""

import copy
import dataclasses
import os
import pickle

import pytest
import torch
from conftest import SHORT, small
from safetensors.torch import save_file
from torch import nn

import qstrategies as qs
from qstrategies.cli import main
from qstrategies.errors import InputError
from qstrategies.evaluation import evaluate
from qstrategies.experiment import trained as trained_models
from qstrategies.experiment.checkpoint import fill
from qstrategies.experiment.comparison import default_strategies, plan, run_all
from qstrategies.experiment.dependencies import Inputs
from qstrategies.experiment.trained import float_stage
from qstrategies.experiment.workspace import Workspace, check_config
from qstrategies.models import MODELS
from qstrategies.pixels import to_input
from qstrategies.progress import Progress
from qstrategies.records import Checkpoint, ExperimentConfig, content_key, labels
from qstrategies.strategies import STRATEGIES


@pytest.fixture(scope="module")
def trained(tmp_path_factory, location):
    """A network that was trained elsewhere."""
    folder = tmp_path_factory.mktemp("elsewhere")
    return float_stage(small("no_norm", seed=5), Workspace(folder, location)).model


@pytest.fixture
def checkpoint(trained, tmp_path):
    path = tmp_path / "trained.safetensors"
    save_file(trained.state_dict(), path)
    return path


def started(strategy, checkpoint, **changes):
    return small(strategy, checkpoint=str(checkpoint), checks="quick", **changes)


class Told(Progress):
    def __init__(self):
        super().__init__(quiet=True)
        self.notes = []

    def note(self, message):
        self.notes.append(message)


def test_strategies_start_from_it_and_train_nothing_in_float_before(
    trained, checkpoint, tmp_path, location, monkeypatch
):
    calls = []
    real = trained_models.train
    monkeypatch.setattr(
        trained_models, "train", lambda *given: calls.append(given[0].strategy) or real(*given)
    )
    workspace = Workspace(tmp_path / "runs", location)
    names = ["no_norm", "finetune", "qat"]
    records = dict(
        zip(names, run_all([started(name, checkpoint) for name in names], workspace), strict=True)
    )
    assert [type(strategy).__name__ for strategy in calls] == ["Finetune", "Qat"]
    test = workspace.dataset("small_mnist").splits["test"]
    expected = evaluate(lambda images: trained(to_input(images)), test).accuracy
    assert [records[name].float_accuracy for name in ("no_norm", "qat")] == [expected] * 2
    assert [len(records[name].curve) for name in names] == [0, 1, 1]
    assert [records[name].epochs_before for name in names] == [0] * 3
    part = "contents of the checkpoint"
    assert {len(record.inputs[part]) for record in records.values()} == {64}
    assert main(["report", str(workspace.folder)]) == 0


def test_ptq_of_a_checkpoint_is_qs_quantize_of_the_model(trained, checkpoint, tmp_path, location):
    """Whatever the seed of training: only the draw of calibration images is the seed's."""
    stages = [
        float_stage(started("no_norm", checkpoint, seed=seed), Workspace(tmp_path, location))
        for seed in (0, 1)
    ]
    assert stages[0].key == stages[1].key and stages[0].history.curve == ()
    for name, tensor in trained.state_dict().items():
        assert torch.equal(stages[1].model.state_dict()[name], tensor)


def test_a_checkpoint_is_what_is_in_it_wherever_it_lies(trained, checkpoint, tmp_path, location):
    told = Told()
    workspace = Workspace(tmp_path / "runs", location, told)
    config = started("no_norm", checkpoint)
    (first,) = run_all([config], workspace)
    moved = tmp_path / "moved" / "renamed.safetensors"
    moved.parent.mkdir()
    checkpoint.unlink()
    save_file({**trained.state_dict()}, moved, metadata={"epoch": "3"})
    again = started("no_norm", moved)
    assert again == config and run_all([again], workspace) == [first] and told.notes == []
    save_file(trained.state_dict() | {"fc.bias": trained.fc.bias + 1}, moved)
    other = started("no_norm", moved)
    assert other != config and other.run_id != config.run_id
    assert float_stage(other, workspace).key != first.float_key
    records = [dataclasses.replace(first, config=each) for each in (config, other)]
    assert len(set(labels(records))) == 2
    with pytest.raises(InputError, match="was written since the configuration was made"):
        float_stage(again, workspace)


def test_what_must_train_from_scratch_says_so_before_any_work(checkpoint):
    for name in ("weight_norm", "qat_scratch", "clamp+finetune", "qat_clamp"):
        with pytest.raises(InputError) as caught:
            plan(started(name, checkpoint), [name], [8], [0])
        assert f"{name!r} trains " in str(caught.value) and "from scratch" in str(caught.value)
        assert "Valid: a2q, " in str(caught.value) and " qat," in str(caught.value)
    check_config(started("cle+mse_clip+adaround", checkpoint))


def test_without_names_those_are_compared_that_can_start_from_it(checkpoint):
    names = default_strategies(started("no_norm", checkpoint))
    assert len(names) >= 4 and {"no_norm", "finetune", "qat"} <= set(names)
    for name in names:
        check_config(started(name, checkpoint))
    assert "weight_norm" in default_strategies(small("no_norm"))


def test_the_run_is_told_apart_and_other_runs_keep_their_names(checkpoint):
    config = small("no_norm")
    content = dataclasses.asdict(config)
    del content["checkpoint"], content["forms"], content["quantization"]["fixed_point"]
    assert config.run_id.endswith(content_key(content)[:8])
    assert started("no_norm", checkpoint).run_id != small("no_norm", checks="quick").run_id
    config = ExperimentConfig(strategy="qat", checkpoint=checkpoint)
    assert config.start == Checkpoint.at(str(checkpoint)) and config.start.path == str(checkpoint)


WRAPPERS = ["module.", "model.", "_orig_mod.", "module._orig_mod."]


@pytest.mark.parametrize("prefix", WRAPPERS)
def test_the_prefix_of_a_wrapper_is_taken_off(trained, tmp_path, prefix):
    path = tmp_path / "wrapped.safetensors"
    save_file({prefix + name: tensor for name, tensor in trained.state_dict().items()}, path)
    model = MODELS.get("cnn")()
    fill(model, Checkpoint.at(path))
    assert torch.equal(model.fc.weight, trained.fc.weight)


def test_a_model_that_is_called_like_a_wrapper_keeps_its_names(trained, tmp_path):
    path, model = tmp_path / "own.safetensors", nn.ModuleDict({"model": MODELS.get("cnn")()})
    save_file({f"model.{name}": tensor for name, tensor in trained.state_dict().items()}, path)
    fill(model, Checkpoint.at(path))
    assert torch.equal(model["model"].fc.weight, trained.fc.weight)


def tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


def test_what_is_one_parameter_may_stand_once_in_the_file(tmp_path):
    model, other, path = tied(), tied(), tmp_path / "tied.safetensors"
    tensors = {name: value for name, value in model.state_dict().items() if name != "1.weight"}
    save_file(tensors, path)
    fill(other, Checkpoint.at(path))
    assert torch.equal(other[1].weight, model[0].weight) and other[0].weight is other[1].weight


def test_counters_of_batch_norm_that_older_files_lack_and_other_precisions_are_taken(
    trained, tmp_path
):
    path, model = tmp_path / "half.safetensors", MODELS.get("cnn")()
    tensors = trained.half().state_dict()
    trained.float()
    save_file({key: t for key, t in tensors.items() if "num_batches" not in key}, path)
    fill(model, Checkpoint.at(path))
    assert torch.equal(model.fc.weight, trained.fc.weight.half().float())


def changed(tensors, **changes):
    return {**tensors, **{name.replace("__", "."): value for name, value in changes.items()}}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: {k: v for k, v in t.items() if k != "fc.bias"}, "it lacks fc.bias:"),
        (lambda t: changed(t, head__bias=torch.zeros(3)), "the model has no head.bias:"),
        (
            lambda t: changed(t, fc__weight=torch.zeros(1000, 1600)),
            "fc.weight is [1000, 1600] there and [10, 1600] in the model:",
        ),
        (lambda t: changed(t, fc__bias=torch.zeros(10, dtype=torch.int8)), "fc.bias is int8 there"),
        (
            lambda t: {f"net.{k}": v for k, v in t.items()},
            "it lacks bn1.bias, bn1.running_mean, bn1.running_var and 11 more; the model has no net.bn1.bias,",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_a_remedy(trained, tmp_path, edit, message):
    path, model = tmp_path / "other.safetensors", MODELS.get("cnn")()
    before = copy.deepcopy(model.state_dict())
    save_file(edit(dict(trained.state_dict())), path)
    with pytest.raises(InputError) as caught:
        fill(model, Checkpoint.at(path))
    text = str(caught.value)
    assert text.startswith(f"checkpoint {str(path)!r} does not fit the model: ")
    assert message in text and "rename" in text and "\n" not in text
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class Trap:
    def __reduce__(self):
        return os.system, ("touch trapped",)


@pytest.mark.parametrize("make", ["zip", "legacy", "pickle"])
def test_a_pickle_is_refused_with_the_way_to_convert_it_and_never_loaded(
    make, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pth"
    if make == "pickle":
        path.write_bytes(pickle.dumps(Trap()))
    else:
        torch.save({"a": Trap()}, path, _use_new_zipfile_serialization=make == "zip")
    with pytest.raises(InputError) as caught:
        Checkpoint.at(path)
    assert "is a pickle, which can run anything" in str(caught.value)
    assert "from safetensors.torch import save_file; save_file(" in str(
        caught.value
    ) and "\n" not in str(caught.value)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"hello", "is no safetensors file"), (b"", "is empty"), (None, "no such file")],
)
def test_other_files_are_refused_by_name(content, message, tmp_path, capsys):
    path = tmp_path / "file.safetensors"
    if content is not None:
        path.write_bytes(content)
    command = ["compare", "--checkpoint", str(path), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    shown = capsys.readouterr().err
    assert message in shown and shown.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_damaged_file_is_named(checkpoint):
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"trained.safetensors' is damaged: "):
        Checkpoint.at(checkpoint)


def test_a_trained_model_is_registered_as_it_is(
    trained, checkpoint, tmp_path, location, registries
):
    assert qs.models.register("given")(trained) is trained
    config, workspace = small("qat", model="given"), Workspace(tmp_path, location)
    stage = float_stage(config, workspace)
    assert stage.history.curve == () and stage.model is not trained
    assert torch.equal(stage.model.fc.weight, trained.fc.weight)
    with pytest.raises(InputError, match="'weight_norm' trains from scratch"):
        check_config(small("weight_norm", model="given"))
    other = copy.deepcopy(trained)
    other.fc.bias.data.add_(1)
    before = Inputs(workspace.dataset).of_run(config)
    MODELS._items["given"] = other
    now = Inputs(workspace.dataset).of_run(config)
    assert [name for name in now if now[name] != before[name]] == [
        "layers or initial weights of model 'given'"
    ]
    with pytest.raises(InputError, match="'given' is trained already: leave out"):
        check_config(dataclasses.replace(config, checkpoint=checkpoint))


def test_trained_objects_are_compared_in_one_call(trained, tmp_path, location):
    before = copy.deepcopy(trained.state_dict())
    data = small("no_norm").dataset
    records = qs.compare(
        trained,
        data,
        "no_norm",
        bits=8,
        out=tmp_path,
        location=location,
        quiet=True,
        config=dataclasses.replace(small("no_norm"), checks="quick", tuning=SHORT),
    )
    assert [record.config.strategy for record in records] == ["no_norm"]
    assert {record.config.model for record in records} == {"CNN"}
    assert "qs.compare in Python, given CNN as here" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "report.html").is_file() and "CNN" not in MODELS.names()
    assert all(torch.equal(before[name], value) for name, value in trained.state_dict().items())
    assert STRATEGIES.get("no_norm")
