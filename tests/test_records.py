import dataclasses
from typing import Literal

import pytest

from qstrategies import typed_json
from qstrategies.errors import InputError
from qstrategies.records import (
    PRESETS,
    Epoch,
    ExperimentConfig,
    QuantizationConfig,
    RunRecord,
    RuntimeCheck,
    Skipped,
    Speed,
    TrainingConfig,
    WeightHistogram,
    content_key,
)

RECORD = RunRecord(
    config=ExperimentConfig(strategy="clamp", options={"threshold": 0.25}, seed=3),
    status="done",
    float_accuracy=0.99,
    int8_accuracy=0.985,
    validation_accuracy=0.98,
    onnxruntime_accuracy=0.985,
    agreement=0.99,
    environment={
        "threads": 2,
        "cpu_flags": ["avx2"],
        "packages": {"torch": "2", "qstrategies": None},
    },
    exactness={"saturation_safe": True, "largest_accumulator": 7},
    sizes={"float": 2, "portable": 1},
    checks=(
        RuntimeCheck(
            runtime="r",
            file="f",
            images=2,
            accuracy=1,
            agreement=1,
            rows_equal=0.5,
            max_steps=1,
            first_difference="x",
        ),
    ),
    skipped=(Skipped(runtime="s", reason="not installed"),),
    speeds=(
        Speed(
            file="f",
            microseconds_batch_1=1,
            images_per_second_batch_256=2,
            speedup_batch_1=3,
            speedup_batch_256=4,
        ),
    ),
    curve=(Epoch(loss=0.5, accuracy=0.9, seconds=1.5),),
    histograms=(
        WeightHistogram(
            when="training", epoch=1, low=-1, high=1, max_abs=1, sigma=0.1, counts=(1, 2, 3)
        ),
    ),
)


def test_json_and_back_is_the_identity():
    assert RunRecord.from_json(RECORD.to_json()) == RECORD


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"config": {}}',
        RECORD.to_json()[:-40],
        RECORD.to_json().replace('"seed": 3', '"seed": -3'),
    ],
)
def test_what_is_no_record_is_refused(text):
    with pytest.raises(InputError, match="not a run record"):
        RunRecord.from_json(text)


def test_the_drop_is_float_minus_int8():
    assert RECORD.drop == pytest.approx(0.005)
    assert dataclasses.replace(RECORD, int8_accuracy=None).drop is None


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (TrainingConfig, {"epochs": 0}, "epochs 0 is out of range: it must lie in 1...1000"),
        (TrainingConfig, {"learning_rate": -1.0}, "learning rate -1.0 is out of range"),
        (TrainingConfig, {"batch_size": 1}, "batch size 1 is out of range"),
        (TrainingConfig, {"optimizer": "adm"}, "unknown optimizer 'adm'. Did you mean 'adam'"),
        (TrainingConfig, {"schedule": "cosin"}, "Did you mean 'cosine'"),
        (
            QuantizationConfig,
            {"weight_bits": 1},
            "weight bits 1 is out of range: it must lie in 2...8",
        ),
        (QuantizationConfig, {"weight_bits": 9}, "weight bits 9 is out of range"),
        (QuantizationConfig, {"observer": "minmax"}, "Did you mean 'min_max'"),
        (QuantizationConfig, {"saturation": "any"}, "unknown saturation 'any'"),
        (QuantizationConfig, {"engine": "x87"}, "Did you mean 'x86'"),
        (QuantizationConfig, {"calibration_images": 0}, "calibration images 0 is out of range"),
        (ExperimentConfig, {"strategy": "qat", "seed": -1}, "seed -1 is out of range"),
        (ExperimentConfig, {"strategy": "qat", "pixels": "uint9"}, "Did you mean 'uint8'"),
    ],
)
def test_a_bad_value_is_named_with_the_valid_ones(kind, values, message):
    with pytest.raises(InputError) as error:
        kind(**values)
    assert message in str(error.value)


def test_equal_content_equal_key_and_any_change_another():
    base = ExperimentConfig(strategy="qat")
    assert content_key(base) == content_key(ExperimentConfig(strategy="qat"))
    changed = [
        dataclasses.replace(base, seed=1),
        dataclasses.replace(base, training=dataclasses.replace(base.training, epochs=4)),
        dataclasses.replace(base, quantization=dataclasses.replace(base.quantization, exact=False)),
    ]
    assert len({content_key(config) for config in [base, *changed]}) == 4
    assert len({config.run_id for config in [base, *changed]}) == 4


def test_the_label_names_the_kernels_if_they_are_not_the_usual_ones():
    config = ExperimentConfig(
        strategy="qat", quantization=QuantizationConfig(saturation="vnni_or_arm")
    )
    assert dataclasses.replace(RECORD, config=config).label == "qat vnni_or_arm"


def test_the_posts_preset_is_its_setting():
    assert PRESETS["post"]["training"] == TrainingConfig(
        epochs=15, learning_rate=1e-3, optimizer="adam", schedule="constant", batch_size=64
    )


@dataclasses.dataclass(frozen=True)
class Inner:
    counts: tuple[int, ...]
    share: typed_json.Fraction = 0.0
    kinds: dict[typed_json.Name, float | None] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Outer:
    rows: list[Inner]
    form: Literal["a", "b"] = "a"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"counts": 3}, "rows[1].counts is 3, expected a list"),
        ({"counts": [1, 2.5]}, "rows[1].counts[1] is 2.5, expected a whole number"),
        ({"counts": [], "share": 2}, "rows[1].share is 2, expected 0...1"),
        ({"counts": [], "kinds": {"x": "{}"}}, "rows[1].kinds.x is '{}', expected a finite number"),
        (
            {"counts": [], "kinds": {"a/b": 1}},
            "a key of rows[1].kinds is 'a/b', expected a name of at most 100 characters, without /",
        ),
        ({"share": 1}, "rows[1] has no 'counts'"),
        ({"counts": [], "{}": 1}, "rows[1] has an unknown entry '{}'"),
        ([], "rows[1] is [], expected an object"),
    ],
)
def test_what_does_not_fit_is_named_by_its_place(row, said):
    good = {"counts": [1, 2], "share": 1, "kinds": {"x": None}}
    assert typed_json.build(Outer, {"rows": [good]}) == Outer([Inner((1, 2), 1, {"x": None})])
    with pytest.raises(InputError) as found:
        typed_json.build(Outer, {"rows": [good, row]})
    assert str(found.value) == said
    with pytest.raises(InputError, match="^form is 'c', expected one of a, b$"):
        typed_json.build(Outer, {"rows": [], "form": "c"})
