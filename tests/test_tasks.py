"""Tasks beyond one label: from the data to the report, figures named after their metric."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

import qstrategies as qs
from qstrategies import evaluation
from qstrategies.datasets.show import show
from qstrategies.evaluation import BATCH, evaluate
from qstrategies.evidence import conclude
from qstrategies.evidence.paired import paired_difference
from qstrategies.execution.verify import report_text, verify
from qstrategies.experiment.runs import run_experiment
from qstrategies.experiment.workspace import Workspace
from qstrategies.records import ACCURACY, Metric, read_record
from qstrategies.records.predictions import Predictions
from qstrategies.report.write import write_report

COUNT = 160
NOISE = np.random.default_rng(0)
REALS = NOISE.normal(size=(COUNT, 6)).astype(np.float32)
MIXED = REALS @ NOISE.normal(size=(6, 2)).astype(np.float32)
PIXELS = NOISE.integers(0, 100, (COUNT, 1, 8, 8), np.uint8)
MASKS = np.zeros((COUNT, 8, 8), np.uint8)
MASKS[:, 2:5, 3:7] = 1
PIXELS[:, 0] += 120 * MASKS


class Two(nn.Module):
    """Several outputs: a class and a value."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.ReLU())
        self.kind, self.size = nn.Linear(16, 3), nn.Linear(16, 1)

    def forward(self, x):
        features = self.body(x)
        return {"kind": self.kind(features), "size": self.size(features)}


def both_loss(outputs, targets):
    kinds = nn.functional.cross_entropy(outputs["kind"], targets[:, 0].long())
    return kinds + (outputs["size"][:, 0] - targets[:, 1]).square().mean()


def absolute(outputs, targets):
    return (outputs["size"][:, 0] - targets[:, 1]).abs()


def net(*layers):
    return lambda: nn.Sequential(*(layer() for layer in layers))


BOTH = np.stack([np.arange(COUNT) % 3, MIXED[:, 0]], 1).astype(np.float32)
CASES = {
    "regression": (
        lambda: qs.datasets.from_arrays(REALS, MIXED[:, 0], task="regression"),
        net(lambda: nn.Linear(6, 16), nn.ReLU, lambda: nn.Linear(16, 1)),
        Metric(name="mse", higher_is_better=False, fraction=False),
    ),
    "multilabel": (
        lambda: qs.datasets.from_arrays(REALS, (MIXED > 0).astype(np.float32), task="multilabel"),
        net(lambda: nn.Linear(6, 16), nn.ReLU, lambda: nn.Linear(16, 2)),
        Metric(name="label accuracy"),
    ),
    "segmentation": (
        lambda: qs.datasets.from_arrays(PIXELS, MASKS, task="segmentation"),
        net(lambda: nn.Conv2d(1, 4, 3, padding=1), nn.ReLU, lambda: nn.Conv2d(4, 2, 1)),
        Metric(name="pixel accuracy"),
    ),
    "several outputs": (
        lambda: qs.datasets.from_arrays(
            REALS, BOTH, task=qs.Task(both_loss, absolute, "mae", higher_is_better=False)
        ),
        Two,
        Metric(name="mae", higher_is_better=False, fraction=False),
    ),
}
SHORT = qs.TrainingConfig(epochs=6, batch_size=16, learning_rate=2e-2)


def config(name, strategy, **changes):
    return qs.ExperimentConfig(
        strategy=strategy,
        model=name,
        dataset=name,
        training=SHORT,
        tuning=dataclasses.replace(SHORT, epochs=1, learning_rate=1e-3),
        quantization=qs.QuantizationConfig(calibration_images=64, **changes),
        checks="quick",
    )


@pytest.fixture
def register(registries):
    return lambda name, dataset, model: (
        qs.datasets.register(name)(dataset),
        qs.models.register(name)(model),
    )


@pytest.mark.parametrize("name", CASES)
def test_its_data_can_be_looked_at(name, tmp_path):
    text, counts = show(CASES[name][0](), tmp_path)
    assert counts == {"train": [112], "validation": [16], "test": [32]} and "112" in text


@pytest.mark.parametrize("name", CASES)
def test_a_task_goes_from_data_to_report(name, register, tmp_path):
    make, model, metric = CASES[name]
    register(name, make, model)
    workspace = Workspace(tmp_path)
    records = [run_experiment(config(name, each), workspace) for each in ("no_norm", "qat")]
    for record in records:
        folder = tmp_path / record.config.run_id
        assert record.status == "done" and record.metric == metric
        assert record.agreement is None and record.classes is None
        assert [note.split()[0] for note in record.notes] == ["'qat'"] * (record is records[1])
        assert read_record(folder / "record.json") == record
        found = Predictions.of(record, folder)
        assert metric.sign * found.test.int8_hits.mean() == pytest.approx(record.int8_accuracy)
        assert record.onnxruntime_accuracy == pytest.approx(record.int8_accuracy)
        assert all(check.rows_equal == 1 for check in record.checks)
        report = verify(folder / "model.onnx")
        assert report["verdict"] == "same" and "no dataset" not in report_text(report)
    found, advice = conclude(records, tmp_path)
    assert found is not None and advice is not None and found.metric == metric
    write_report(records, tmp_path, found, advice)
    text = (tmp_path / "summary.md").read_text()
    assert metric.name in text and (" accuracy" not in text or "accuracy" in metric.name)
    first = json.loads((tmp_path / "summary.json").read_text())["rows"][1]
    assert first[f"int8_{metric.key}"] == pytest.approx(records[0].int8_accuracy)
    assert metric.key in (tmp_path / "summary.csv").read_text().splitlines()[0]


def test_figures_are_those_of_an_independent_computation(register, tmp_path):
    make, model, _ = CASES["regression"]
    register("regression", make, model)
    workspace = Workspace(tmp_path)
    record = run_experiment(config("regression", "no_norm"), workspace)
    import onnxruntime

    split = workspace.dataset("regression").splits["test"]
    path = tmp_path / record.config.run_id / "model.onnx"
    session = onnxruntime.InferenceSession(str(path))
    meta = session.get_modelmeta().custom_metadata_map
    scale, zero = (json.loads(meta[key]) for key in ("input_scale", "input_zero_point"))
    integers = np.clip(np.rint(split.images.numpy() / scale) + zero, 0, 255).astype(np.uint8)
    values = session.run(None, {session.get_inputs()[0].name: integers})[0][:, 0]
    expected = np.mean((values - split.labels.numpy()) ** 2)
    assert record.int8_accuracy == pytest.approx(expected, rel=1e-5), "float32 sums"
    assert record.drop == pytest.approx(record.int8_accuracy - record.float_accuracy)
    assert json.loads(meta["metric"]) == "mse"


def test_lower_is_better_orders_and_judges_the_other_way(register, tmp_path):
    make, model, _ = CASES["regression"]
    register("regression", make, model)
    workspace = Workspace(tmp_path)
    longer = dataclasses.replace(SHORT, epochs=40)
    records = [
        run_experiment(
            dataclasses.replace(config("regression", "no_norm", weight_bits=bits), training=longer),
            workspace,
        )
        for bits in (8, 2)
    ]
    assert records[0].int8_accuracy < records[1].int8_accuracy, "2 bits are worse"
    found, advice = conclude(records, tmp_path)
    eight, two = found.rows
    assert two.change.difference < eight.change.difference
    assert two.change.verdict == "worse" and records[1].drop > 0
    assert advice.best.weight_bits == 8
    assert "mse" in advice.reason and "points" not in advice.reason


def test_scores_are_paired_like_hits():
    """The interval of a difference of scores is that of Student's paired t-test, nearly."""
    random = np.random.default_rng(0)
    one = random.normal(size=4000)
    other = one - 0.1 + 0.5 * random.normal(size=4000)
    found = paired_difference([one], [other])
    difference = one - other
    half = 1.96 * difference.std(ddof=1) / np.sqrt(len(difference))
    low, high = found.interval()
    assert found.mean == pytest.approx(difference.mean())
    assert low == pytest.approx(difference.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(difference.mean() + half, abs=0.1 * half)
    hits = one > 0
    assert np.array_equal(
        paired_difference([hits], [other > 0]).draws,
        paired_difference([hits.astype(np.int8)], [(other > 0).astype(np.int8)]).draws,
    )


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("regresion", "unknown task 'regresion'. Did you mean 'regression'"),
        (
            qs.Task(lambda o, t: o.mean(), lambda o, t: o.mean(), "mine"),
            r"the score 'mine' gives \[\] for 2 examples: expected \[2\]",
        ),
        (
            qs.Task(lambda o, t: o, lambda o, t: o[:, 0], "mine"),
            "the loss of the task of 'odd' must give a single number",
        ),
        (
            qs.Task(lambda o, t: o @ t, lambda o, t: o[:, 0], "mine"),
            "the task of 'odd' does not take what model 'odd' gives",
        ),
    ],
)
def test_a_task_that_does_not_fit_is_refused_before_training(task, message, register, tmp_path):
    _, model, _ = CASES["regression"]
    with pytest.raises(qs.InputError, match=message):
        register("odd", qs.datasets.from_arrays(REALS, MIXED, task=task), model)
        run_experiment(config("odd", "no_norm"), Workspace(tmp_path))
    assert not list(tmp_path.glob("stages/*"))


@pytest.mark.parametrize("strategy", ["distill", "finetune_distill", "cle+distill"])
def test_a_strategy_of_classes_is_refused_where_there_are_none(strategy, register, tmp_path):
    """Distillation of one real value would be no loss at all, without a word."""
    register("regression", *CASES["regression"][:2])
    with pytest.raises(qs.InputError, match="compares logits of classes: the task of"):
        run_experiment(config("regression", strategy), Workspace(tmp_path))


def test_an_own_loss_is_a_part_of_what_a_run_depends_on():
    made = [
        qs.datasets.from_arrays(REALS, BOTH, task=qs.Task(both_loss, score, "mae")).content
        for score in (absolute, lambda outputs, targets: targets[:, 0])
    ]
    assert made[0] != made[1]


def test_classification_is_what_it_was():
    assert Metric() == ACCURACY and ACCURACY.head == "%" and ACCURACY.unit == "points"
    assert ACCURACY.shown(0.98765) == "98.77%" and ACCURACY.difference(0.00123) == "0.12"


def test_of_large_outputs_only_a_part_is_kept(monkeypatch):
    """The score of every example, and outputs that what executors give is compared with."""
    made, task = CASES["segmentation"][0](), CASES["segmentation"][0]().task
    split = made.splits["train"]
    torch.manual_seed(0)
    model = CASES["segmentation"][1]().eval()
    whole = evaluate(lambda images: model(split.model_inputs(images)), split, task)
    monkeypatch.setattr(evaluation, "CHECKED_BYTES", 10 * 2 * 8 * 8 * 4)
    monkeypatch.setattr(evaluation, "BATCH_NUMBERS", 8 * 64)
    part = evaluate(lambda images: model(split.model_inputs(images)), split, task)
    assert len(whole) == len(part) == 112 and len(whole.logits) == 112
    assert len(part.logits) == 16, "two batches of 8"
    assert np.array_equal(part.marks, whole.marks) and len(np.unique(part.marks)) == 1
    assert np.allclose(part.predictions, whole.predictions), "other batches, other float sums"
    outputs = model(split.model_inputs(split.images))
    expected = (outputs.argmax(1) == split.labels).double().mean((1, 2))
    assert np.allclose(whole.predictions, expected)
    assert part.figure(part.logits[:5]) == pytest.approx(part.predictions[:5].mean())
    assert evaluation.batch_size((3, 2000, 2000)) == 1 and BATCH == 200
