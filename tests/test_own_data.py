"""Datasets of what people have: one contract for every kind, through the whole experiment."""

import dataclasses
import os
import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data import Dataset as TorchDataset

import qstrategies as qs
from qstrategies.datasets import made_dataset
from qstrategies.datasets.show import show
from qstrategies.datasets.split import CalibrationSet
from qstrategies.execution.verify import verify
from qstrategies.experiment.runs import run_experiment
from qstrategies.experiment.trained import float_stage
from qstrategies.experiment.workspace import Workspace
from qstrategies.records import ExperimentConfig, QuantizationConfig, TrainingConfig

CLASSES = ("blue", "green", "red")
COUNT = 120
Y = np.arange(COUNT) % 3
NOISE = np.random.default_rng(0)
PIXELS = NOISE.integers(0, 120, (COUNT, 3, 8, 8), np.uint8)
PIXELS[np.arange(COUNT), Y] += 100
REALS = NOISE.normal(size=(COUNT, 5)).astype(np.float32) + 2 * Y[:, None]
WAVES = (NOISE.normal(size=(COUNT, 32)) * 1000 + 8000 * (Y[:, None] - 1)).astype(np.int16)
WORDS = np.where(NOISE.random((COUNT, 8)) < 0.6, Y[:, None], NOISE.integers(0, 9, (COUNT, 8)))
WORDS[:, -1] = np.arange(COUNT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A picture of each of ``PIXELS`` in the folder of its class."""
    place = tmp_path_factory.mktemp("pictures")
    for index, (pixels, label) in enumerate(zip(PIXELS, Y, strict=True)):
        (place / CLASSES[label]).mkdir(exist_ok=True)
        picture = Image.fromarray(pixels.transpose(1, 2, 0))
        picture.save(place / CLASSES[label] / f"{index:03}.png")
    return place


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QSTRATEGIES_CACHE", str(tmp_path / "cache"))


class Pairs(TorchDataset):
    """Single examples, as a class of one's own gives them."""

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return PIXELS[index], int(Y[index])


def table():
    names = {f"c{place}": REALS[:, place] for place in range(4)}
    return {**names, "side": np.where(REALS[:, 4] > 1, "left", "right"), "k": Y}


KINDS = {
    "pictures": lambda folder, **given: qs.datasets.image_folder(folder, size=8, **given),
    "pixels": lambda _, **given: qs.datasets.from_arrays(PIXELS, Y, **given),
    "reals": lambda _, **given: qs.datasets.from_arrays(
        REALS, Y, **{"normalize": "train", **given}
    ),
    "words": lambda _, **given: qs.datasets.from_arrays(WORDS, Y, **given),
    "signals": lambda _, **given: qs.datasets.from_signals(WAVES, Y, **given),
    "table": lambda _, **given: qs.datasets.from_table(table(), target="k", **given),
    "torch": lambda _, **given: qs.datasets.from_torch(Pairs(), **given),
}


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.fc = nn.Embedding(COUNT, 16), nn.Linear(16, 3)

    def forward(self, words):
        return self.fc(torch.relu(self.words(words).mean(1)))


def pictures_net():
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(body, nn.Flatten(), nn.Linear(72, 3))


NETS = {
    "pictures": pictures_net,
    "pixels": pictures_net,
    "torch": pictures_net,
    "reals": lambda: nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)),
    "table": lambda: nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)),
    "signals": lambda: nn.Sequential(
        nn.Conv1d(1, 4, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(28, 3)
    ),
    "words": Words,
}
SHORT = TrainingConfig(epochs=8, batch_size=16, learning_rate=2e-2)


def settings(name, strategy="no_norm", **changes):
    return ExperimentConfig(
        strategy=strategy,
        model=name,
        dataset=name,
        training=SHORT,
        tuning=dataclasses.replace(SHORT, epochs=1, learning_rate=1e-3),
        quantization=QuantizationConfig(calibration_images=64),
        checks="quick",
        **changes,
    )


@pytest.fixture
def register(registries):
    """Registers a dataset and a model for the length of a test."""
    return lambda name, dataset, net: (
        qs.datasets.register(name)(dataset),
        qs.models.register(name)(net),
    )


def rows(split):
    """The inputs of a split as things that can be compared and counted."""
    return [row.numpy().tobytes() for row in split.images]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_the_contract(kind, folder):
    dataset = KINDS[kind](folder)
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    assert sizes == {"train": 84, "validation": 12, "test": 24}
    assert len(dataset.labels) == 3 and dataset.name and "84 / 12 / 24" in dataset.summary
    for name, split in dataset.splits.items():
        assert split.name == name and split.shape == dataset.input_shape
        assert split.labels.dtype == torch.int64
        assert split.labels.bincount().tolist() == [sizes[name] // 3] * 3, "shares are kept"
        assert split.images.dtype in (torch.uint8, torch.float32, torch.int64)
        assert (split.scale is None) == (split.images.dtype != torch.uint8)
    everything = [row for split in dataset.splits.values() for row in rows(split)]
    assert len(set(everything)) == COUNT, "no example is in two splits, none is lost"
    again, other = KINDS[kind](folder), KINDS[kind](folder, seed=1)
    assert again.content == dataset.content != other.content
    chosen = CalibrationSet(dataset.splits["train"], 10, seed=0).images
    assert torch.equal(chosen, CalibrationSet(again.splits["train"], 10, seed=0).images)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_looked_at(kind, folder, tmp_path):
    text, counts = show(KINDS[kind](folder, in_memory=False), tmp_path)
    assert counts == {"train": [28] * 3, "validation": [4] * 3, "test": [8] * 3}
    assert "84" in text and next(tmp_path.glob("*.png")).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_from_disk_is_what_would_be_in_memory(kind, folder):
    """Also with another number of processes, and with random augmentation."""
    kept, read = (
        KINDS[kind](folder, augment=jittered, in_memory=in_memory) for in_memory in (True, False)
    )
    shares = list(torch.arange(84).split(30))
    for name, split in kept.splits.items():
        other = read.splits[name]
        assert torch.equal(split.images, other.images) and split.shape == other.shape
        assert split.scale == other.scale and torch.equal(split.labels, other.labels)
        assert torch.equal(split.first(5).images, other.first(5).images)
    for seed in (0, 1):
        batches = zip(
            kept.splits["train"].training_batches(shares, seed),
            read.splits["train"].training_batches(shares, seed),
            strict=True,
        )
        for (ours, labels), (theirs, others) in batches:
            assert torch.equal(ours, theirs) and torch.equal(labels, others)


def jittered(values):
    """Three kinds of randomness that transforms use."""
    shift = int(torch.randint(3, ())) + random.randrange(3) + np.random.randint(3)
    return values + shift if values.dtype != torch.int64 else values.roll(shift, 0)


def test_augmentation_is_random_for_training_and_nothing_else(folder):
    plain, other = KINDS["pictures"](folder), KINDS["pictures"](folder, augment=jittered)
    for name in ("train", "validation", "test"):
        assert torch.equal(plain.splits[name].images, other.splits[name].images)
    train, order = other.splits["train"], list(torch.arange(84).split(84))
    drawn = [next(iter(train.training_batches(order, seed)))[0] for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    shifts = (drawn[0].int() - train.images.int()).flatten(1)
    assert (shifts == shifts[:, :1]).all() and shifts[:, 0].unique().tolist() == list(range(7))
    assert other.content != plain.content
    before = torch.get_rng_state()
    next(iter(train.training_batches(order, 0)))
    assert torch.equal(torch.get_rng_state(), before)


class Shifted:
    """A transform with a setting, as those of torchvision."""

    def __init__(self, by):
        self.by = by

    def __repr__(self):
        return f"Shifted({self.by})"

    def __call__(self, image):
        return image.roll(self.by, -1)


def test_the_settings_of_a_transform_are_a_part_of_what_a_run_depends_on():
    contents = [KINDS["pixels"](None, augment=Shifted(by)).content for by in (1, 1, 2)]
    assert contents[0] == contents[1] != contents[2]


def test_workers_read_the_same_and_their_errors_come_in_one_line(folder, tmp_path):
    alone, workers = (
        KINDS["pictures"](folder, augment=jittered, in_memory=False, workers=count)
        for count in (0, 2)
    )
    shares = list(torch.randperm(84).split(16))
    pairs = zip(
        *(each.splits["train"].training_batches(shares, 7) for each in (alone, workers)),
        strict=True,
    )
    assert all(torch.equal(ours[0], theirs[0]) for ours, theirs in pairs)
    copy = copied(folder, tmp_path)
    dataset = KINDS["pictures"](copy, in_memory=False, workers=1)
    for file in copy.glob("*/*.png"):
        file.write_bytes(b"no picture")
    shown = repr(dataset.splits["train"])
    assert shown.startswith("StoredSplit(train: 84 of (3, "), "in a line, and nothing is read"
    with pytest.raises(qs.InputError, match=r"^'.*png' is not an image that Pillow reads"):
        _ = dataset.splits["train"].images


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_picture_that_ends_too_early_is_named_before_any_training(folder, tmp_path, suffix):
    copy = copied(folder, tmp_path)
    whole = copy / next(copy.glob("*/*.png")).relative_to(copy).parent / f"half.{suffix}"
    Image.effect_noise((64, 64), 90).save(whole)
    dataset = KINDS["pictures"](copy, in_memory=False)
    assert dataset.notes == ()
    whole.write_bytes(whole.read_bytes()[:-900])
    with pytest.raises(qs.InputError, match=rf"half.{suffix}' is not an image .*; remove it"):
        _ = KINDS["pictures"](copy, in_memory=False).notes


def copied(folder, place):
    target = place / "copy"
    for file in folder.glob("*/*.png"):
        (target / file.parent.name).mkdir(parents=True, exist_ok=True)
        (target / file.parent.name / file.name).write_bytes(file.read_bytes())
    return target


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_changed_file_changes_the_fingerprint_and_a_copied_one_does_not(
    folder, tmp_path, in_memory
):
    copy = copied(folder, tmp_path)
    before = KINDS["pictures"](copy, in_memory=in_memory).content
    assert before == KINDS["pictures"](folder, in_memory=in_memory).content
    file = next(copy.glob("red/*.png"))
    os.utime(file, ns=(0, 0))
    assert KINDS["pictures"](copy, in_memory=in_memory).content == before
    pixels = np.asarray(Image.open(file)).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(file)
    assert KINDS["pictures"](copy, in_memory=in_memory).content != before


def test_files_are_hashed_once(folder, monkeypatch):
    from qstrategies.datasets import folders

    hashed = []
    monkeypatch.setattr(folders, "sha256", lambda data: (hashed.append(len(data)), "0" * 64)[1])
    counts = []
    for _ in range(2):
        _ = KINDS["pictures"](folder, in_memory=False).content
        counts.append(len(hashed))
    few = counts[1] - counts[0]
    assert counts[0] >= COUNT > 10 > few, "the name of the list and of the whole, no picture"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_goes_through_a_whole_run(kind, folder, register, tmp_path):
    register(kind, lambda: KINDS[kind](folder), NETS[kind])
    workspace = Workspace(tmp_path)
    record = run_experiment(settings(kind), workspace)
    assert record.status == "done" and record.float_accuracy > 0.6
    exact = [check for check in record.checks if check.rows_equal < 1]
    assert not exact and record.onnxruntime_accuracy == record.int8_accuracy
    report = verify(tmp_path / record.config.run_id / "model.onnx")
    assert report["verdict"] == "same"
    assert {check["pytorch_bits"] for check in report["checks"]} <= {True, None}
    assert True in {check["pytorch_bits"] for check in report["checks"]}


@pytest.mark.parametrize("kind", ["reals", "words"])
def test_fake_quantizers_are_trained_on_what_is_no_picture(kind, folder, register, tmp_path):
    register(kind, KINDS[kind](folder), NETS[kind])
    record = run_experiment(settings(kind, "qat", pixels="float32"), Workspace(tmp_path))
    assert record.status == "done" and record.int8_accuracy > 0.6
    assert all(check.rows_equal == 1 for check in record.checks)
    assert verify(tmp_path / record.config.run_id / "model.onnx")["verdict"] == "same"


def test_training_from_disk_gives_the_same_bits(folder, register, tmp_path):
    histories = []
    for name, in_memory in (("kept", True), ("read", False)):
        made = KINDS["pictures"](folder, in_memory=in_memory, augment=jittered)
        register(name, made, pictures_net)
        histories.append(float_stage(settings(name), Workspace(tmp_path / name)))
    ours, theirs = (stage.model.state_dict() for stage in histories)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_normalization_of_pixels_is_a_part_of_the_model(folder, register, tmp_path):
    """The file takes raw pixels, and the float model sees (x / 255 - mean) / std."""
    mean, std = (0.4, 0.3, 0.2), (0.2, 0.25, 0.3)
    made = KINDS["pictures"](folder, normalize=(mean, std))
    register("normalized", made, pictures_net)
    stage = float_stage(settings("normalized"), Workspace(tmp_path))
    split = made.splits["test"]
    assert split.images.dtype == torch.uint8
    images = split.images.double() / 255
    shaped = [torch.tensor(each).double().reshape(3, 1, 1) for each in (mean, std)]
    expected = stage.model.model.double()((images - shaped[0]) / shaped[1])
    found = stage.model.float()(split.model_inputs(split.images))
    assert torch.allclose(found.double(), expected, atol=1e-4), "float32 rounding"
    record = run_experiment(settings("normalized"), Workspace(tmp_path))
    assert all(check.rows_equal == 1 for check in record.checks)


@pytest.mark.parametrize("kind", ["reals", "signals", "table"])
def test_real_values_are_normalized_by_the_training_split(kind, folder):
    made = KINDS[kind](folder, normalize="train")
    values = made.splits["train"].images.double().transpose(0, 1).flatten(1)
    assert (
        values.mean(1).abs().max() < 1e-5 and (values.std(1, correction=0) - 1).abs().max() < 1e-4
    )
    assert made.splits["test"].images.mean().abs() > 1e-4, "not by itself"
    assert made.normalization is None


def test_scaled_pixels_become_raw_ones():
    """As of torchvision's ToTensor."""
    scaled = torch.from_numpy(PIXELS).float() / 255
    made = qs.datasets.from_torch(TensorDataset(scaled, torch.from_numpy(Y)), input_scale=1 / 255)
    raw = qs.datasets.from_torch(TensorDataset(torch.from_numpy(PIXELS), torch.from_numpy(Y)))
    assert torch.equal(made.splits["train"].images, raw.splits["train"].images)


def test_a_loader_gives_its_examples_whatever_its_order_and_batches():
    pairs = TensorDataset(torch.from_numpy(REALS), torch.from_numpy(Y))
    loader = DataLoader(pairs, batch_size=7, shuffle=True)
    made, plain = qs.datasets.from_torch(loader), qs.datasets.from_arrays(REALS, Y)
    assert torch.equal(made.splits["test"].images, plain.splits["test"].images)
    listed = qs.datasets.from_torch([(row, label) for row, label in zip(REALS, Y, strict=True)])
    assert torch.equal(listed.splits["test"].images, plain.splits["test"].images)
    streamed = qs.datasets.from_torch(batch for batch in DataLoader(pairs, batch_size=None))
    assert torch.equal(streamed.splits["test"].images, plain.splits["test"].images)


def test_pictures_of_pillow_are_taken_as_they_are():
    pairs = [
        (Image.fromarray(each.transpose(1, 2, 0)), CLASSES[y])
        for each, y in zip(PIXELS, Y, strict=True)
    ]
    made = qs.datasets.from_torch(pairs)
    assert made.labels == CLASSES
    assert torch.equal(made.splits["test"].images, KINDS["pixels"](None).splits["test"].images)


def test_splits_that_are_given_stay(folder, tmp_path):
    parts = {"train": slice(0, 60), "val": slice(60, 90), "test": slice(90, 120)}
    for split, part in parts.items():
        for number in range(COUNT)[part]:
            label = CLASSES[Y[number]]
            (tmp_path / split / label).mkdir(parents=True, exist_ok=True)
            source = folder / label / f"{number:03}.png"
            (tmp_path / split / label / source.name).write_bytes(source.read_bytes())
    np.savez(
        tmp_path / "data.npz",
        **{f"{split}_images": PIXELS[part] for split, part in parts.items()},
        **{f"{split}_labels": Y[part, None] for split, part in parts.items()},
    )
    pairs = {split: (PIXELS[part], Y[part]) for split, part in parts.items()}
    for made in (
        qs.datasets.image_folder(tmp_path, size=8),
        qs.datasets.from_arrays(tmp_path / "data.npz"),
        qs.datasets.from_arrays(pairs),
    ):
        assert {name: len(split) for name, split in made.splits.items()} == {
            "train": 60,
            "validation": 30,
            "test": 30,
        }
        assert Counter(rows(made.splits["test"])) == Counter(
            each.tobytes() for each in PIXELS[parts["test"]]
        )


def test_a_csv_file_is_read_as_columns(tmp_path):
    lines = ["a,side,k"]
    lines += [
        f"{row[0]!r},{'left' if row[1] > 1 else 'right'},{CLASSES[y]}"
        for row, y in zip(REALS.tolist(), Y, strict=True)
    ]
    (tmp_path / "flowers.csv").write_text("\n".join(lines))
    made = qs.datasets.from_table(tmp_path / "flowers.csv", target="k", normalize=None)
    assert made.labels == CLASSES and made.input_shape == (3,)
    first = made.splits["train"].images[:, 1:]
    assert (first.sum(1) == 1).all() and set(first.unique().tolist()) == {0.0, 1.0}


def test_arrays_mapped_into_memory_are_not_read_whole(tmp_path):
    np.save(tmp_path / "x.npy", PIXELS)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    made = qs.datasets.from_arrays(mapped, Y, in_memory=False)
    plain = KINDS["pixels"](None)
    assert torch.equal(made.splits["test"].images, plain.splits["test"].images)


def test_a_registered_thing_is_a_dataset_a_factory_or_a_class(register):
    made = KINDS["reals"](None)
    seen = []
    register("thing", made, NETS["reals"])
    register("factory", lambda: made, NETS["reals"])
    register("told", lambda location: (seen.append(location), made)[1], NETS["reals"])
    location = qs.Location()
    assert all(made_dataset(name, location) is made for name in ("thing", "factory", "told"))
    assert seen == [location]
    register("wrong", lambda: 3, NETS["reals"])
    register("fails", lambda: 1 / 0, NETS["reals"])
    with pytest.raises(qs.InputError, match="'wrong' gives a int: expected a Dataset"):
        made_dataset("wrong", location)
    with pytest.raises(
        qs.InputError, match="'fails' cannot be made: .*, line [0-9]+: ZeroDivisionError"
    ):
        made_dataset("fails", location)


def with_nan():
    values = REALS.copy()
    values[3, 1] = np.nan
    return values


WHOLE = {"a": REALS[:, 0], "k": Y}
REFUSALS = {
    "bool": (lambda: qs.datasets.from_arrays(REALS > 0, Y), "are torch.bool: make them float32"),
    "complex": (lambda: qs.datasets.from_arrays(REALS * 1j, Y), "are complex128: make them float"),
    "text": (lambda: qs.datasets.from_arrays(REALS.astype(str), Y), "are <U.*: make them float32"),
    "nan": (lambda: qs.datasets.from_arrays(with_nan(), Y), "hold NaN, infinity or more than"),
    "range": (
        lambda: qs.datasets.from_arrays(PIXELS.astype(np.float32), Y, input_scale=1 / 255),
        r"values from 0 to 2..: with input_scale=0.00392157 they lie in \[0, 1\]",
    ),
    "below zero": (
        lambda: qs.datasets.from_arrays(PIXELS.astype(np.int64) - 1, Y, input_scale=1 / 255),
        r"values from -1 to 2..: with .* they lie in \[0, 255\]; leave input_scale out",
    ),
    "no steps": (
        lambda: qs.datasets.from_arrays(np.abs(REALS) / 99, Y, input_scale=1 / 255),
        "are no whole steps of input_scale",
    ),
    "channels last": (
        lambda: qs.datasets.from_arrays(PIXELS.transpose(0, 2, 3, 1), Y),
        r"\[120, 8, 8, 3\]: channels come before height and width, give x.transpose",
    ),
    "other lengths": (lambda: qs.datasets.from_arrays(REALS[1:], Y), "119 inputs and 120 labels"),
    "no labels": (lambda: qs.datasets.from_arrays(REALS), "inputs without labels"),
    "real labels": (lambda: qs.datasets.from_arrays(REALS, Y / 2), "labels are float64: expected"),
    "one-hot": (lambda: qs.datasets.from_arrays(REALS, np.eye(3)[Y]), r"labels.argmax\(1\)"),
    "negative label": (lambda: qs.datasets.from_arrays(REALS, Y - 1), "labels from -1 to 1"),
    "a class left out": (lambda: qs.datasets.from_arrays(REALS, Y * 2), "no example of class 1, 3"),
    "few names": (
        lambda: qs.datasets.from_arrays(REALS, Y, classes=["a", "b"]),
        r"labels from 0 to 2: they must be 0\.\.\.1",
    ),
    "no train": (
        lambda: qs.datasets.from_arrays({"test": (REALS, Y)}),
        "no split 'train', only te",
    ),
    "a split's name": (
        lambda: qs.datasets.from_arrays({"train": (REALS, Y), "tst": (REALS, Y)}),
        "unknown split 'tst'. Did you mean 'test'",
    ),
    "shapes": (
        lambda: qs.datasets.from_arrays({"train": (REALS, Y), "test": (REALS[:, :4], Y)}),
        r"inputs of 'test' are torch.float32 \[4\], those of 'train' torch.float32 \[5\]",
    ),
    "too few": (lambda: qs.datasets.from_arrays(REALS[:6], Y[:6]), "1 of 6 training examples for"),
    "an unknown setting": (
        lambda: qs.datasets.from_arrays(REALS, Y, worker=2),
        "unknown setting of a dataset 'worker'. Did you mean 'workers'",
    ),
    "a share": (
        lambda: qs.datasets.from_arrays(REALS, Y, test=3),
        "share of test examples 3 is out",
    ),
    "augment": (lambda: qs.datasets.from_arrays(REALS, Y, augment=3), "expected a function of one"),
    "normalize": (
        lambda: qs.datasets.from_arrays(REALS, Y, normalize=3),
        "expected 'train' or a p",
    ),
    "means": (
        lambda: qs.datasets.from_arrays(REALS, Y, normalize=([0], [1])),
        "1 means: give 5, one for each channel",
    ),
    "no std": (
        lambda: qs.datasets.from_arrays(REALS, Y, normalize=([0] * 5, [0] * 5)),
        "standard deviation 0.0: expected a number above zero",
    ),
    "words have no mean": (
        lambda: qs.datasets.from_arrays(WORDS, Y, normalize="train"),
        "normalize is for pixels and real values",
    ),
    "signals": (lambda: qs.datasets.from_signals(Y, Y), r"signals have shape \[120\]: expected"),
    "no pairs": (lambda: qs.datasets.from_torch(list(REALS)), "gives a ndarray: expected pairs"),
    "no dataset": (lambda: qs.datasets.from_torch(3), "is a int: expected a Dataset or DataLoader"),
    "ragged": (
        lambda: qs.datasets.from_torch([(REALS[0], 0), (REALS[0, :3], 1)]),
        r"differ in shape, \[3\] and \[5\]: resize or pad them",
    ),
    "random reads": (
        lambda: qs.datasets.from_torch(Jittering()),
        "is another one when it is read again: take random transforms out",
    ),
    "no column": (lambda: qs.datasets.from_table(WHOLE, target="b"), "unknown column 'b'"),
    "no value": (
        lambda: qs.datasets.from_table({**WHOLE, "a": with_nan()[:, 1]}, target="k"),
        "column 'a' has no value in example 3",
    ),
    "lengths of columns": (
        lambda: qs.datasets.from_table({**WHOLE, "b": Y[1:]}, target="k"),
        r"column 'b' has shape \[119\]",
    ),
    "only a target": (
        lambda: qs.datasets.from_table({"k": Y}, target="k"),
        "no columns but the tar",
    ),
    "no folder": (lambda: qs.datasets.image_folder("nowhere", size=8), "no such folder: 'nowhere'"),
    "no size": (
        lambda: qs.datasets.image_folder(".", size=0),
        "size 0: expected pixels above zero",
    ),
    "no file": (lambda: qs.datasets.from_arrays("nowhere.npz"), "no such file: 'nowhere.npz'"),
}


class Jittering(Pairs):
    """A dataset with a random transform inside."""

    def __getitem__(self, index):
        return torch.rand(3), index % 3


@pytest.mark.parametrize("case", REFUSALS)
def test_what_does_not_fit_is_said_at_once_with_the_remedy(case):
    act, message = REFUSALS[case]
    with pytest.raises(qs.InputError, match=message):
        act()


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(
        qs.InputError, match="has no folders of pictures: expected one for each class"
    ):
        qs.datasets.image_folder(tmp_path, size=8)
    (tmp_path / "red").mkdir()
    (tmp_path / "red" / "a.png").write_bytes(b"no picture")
    (tmp_path / "green").mkdir()
    with pytest.raises(qs.InputError, match="green' has no pictures"):
        qs.datasets.image_folder(tmp_path, size=8)


def test_a_damaged_or_foreign_file_is_refused(tmp_path):
    (tmp_path / "data.npz").write_bytes(b"no archive")
    np.savez(tmp_path / "names.npz", x=REALS, other=Y)
    np.savez(tmp_path / "half.npz", x_train=REALS, y_train=Y, x_test=REALS)
    np.savez(tmp_path / "objects.npz", x=REALS, y=np.array([{}] * COUNT))
    (tmp_path / "ragged.csv").write_text("a,k\n1,0\n2\n")
    (tmp_path / "empty.csv").write_text("a,k\n")
    for name, message in (
        ("data.npz", "is no .npz file of plain arrays"),
        ("names.npz", "unknown array 'other'"),
        ("half.npz", "has no labels of 'test'"),
        ("objects.npz", "is no .npz file of plain arrays"),
    ):
        with pytest.raises(qs.InputError, match=message):
            qs.datasets.from_arrays(tmp_path / name)
    for name, message in (
        ("ragged.csv", "row 3: 1 values, expected 2"),
        ("empty.csv", "no rows"),
    ):
        with pytest.raises(qs.InputError, match=message):
            qs.datasets.from_table(tmp_path / name, target="k")


@pytest.mark.parametrize(
    ("changes", "net", "message"),
    [
        ({}, lambda: nn.Linear(7, 3), r"does not take the inputs of 'odd', \[N, 5\] of float32"),
        ({}, lambda: nn.Linear(5, 4), r"gives \[2, 4\] for 2 inputs of 'odd': expected \[2, 3\]"),
        (
            {"quantization": QuantizationConfig(calibration_images=85)},
            NETS["reals"],
            "85 calibration images of 84 training images: .* --calibration-images 84",
        ),
    ],
)
def test_data_model_and_settings_that_do_not_fit_are_refused_before_training(
    changes, net, message, register, tmp_path
):
    register("odd", KINDS["reals"](None), net)
    with pytest.raises(qs.InputError, match=message):
        run_experiment(dataclasses.replace(settings("odd"), **changes), Workspace(tmp_path))
    assert not list(tmp_path.glob("stages/*"))


def test_augmentation_that_changes_shape_or_dtype_is_refused():
    made = KINDS["pixels"](None, augment=lambda pixels: pixels.float())
    with pytest.raises(qs.InputError, match="augment made torch.float32 .* it must keep both"):
        next(iter(made.splits["train"].training_batches([torch.arange(4)], 0)))
