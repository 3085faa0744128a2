"""Data as people have it: odd pictures, labels with holes, dicts, leaks. It is read rightly, or refused
by name; nothing is taken for something else."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, IterableDataset

import qstrategies as qs
from qstrategies.datasets.folders import picture
from qstrategies.tasks import IGNORED, TASKS, check_targets

N = 60
X = np.random.default_rng(0).random((N, 4)).astype(np.float32)
Y = np.arange(N) % 3
MASKS = np.zeros((N, 2, 2), int)
arrays, loaded = qs.datasets.from_arrays, qs.datasets.from_torch


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QSTRATEGIES_CACHE", str(tmp_path / "cache"))


def colours():
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[:3, :4], pixels[3:, 4:] = [204, 0, 0], [0, 204, 51]
    return Image.fromarray(pixels)


def read(image, path, **settings):
    image.save(path, **settings)
    return picture(path, (6, 8), grey=False)


def test_pictures_of_any_kind_are_what_people_see(tmp_path):
    plain = np.asarray(colours()).transpose(2, 0, 1)
    for mode in ("P", "RGBA", "CMYK"):
        path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
        assert np.array_equal(read(colours().convert(mode), path), plain), mode
    turned = Image.Exif()
    turned[0x112] = 3  # upside down
    seen = read(ImageOps.mirror(ImageOps.flip(colours())), tmp_path / "t.png", exif=turned)
    assert np.array_equal(seen, plain)
    for path in (tmp_path / "deep.png", tmp_path / "deep.tif"):
        deep = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1300
        assert np.array_equal(read(Image.fromarray(deep), path)[1], deep // 256)
    for kind in (np.int32, np.float32):
        with pytest.raises(
            qs.InputError, match=r"deep.tif': its values have 32 bits .* no fixed range"
        ):
            read(Image.fromarray(np.ones((6, 8), kind)), tmp_path / "deep.tif")


def test_pictures_in_a_dataset_are_intensities():
    """Not places in a palette, and not whole numbers as of words."""
    kinds = [colours().convert(mode) for mode in ("RGB", "P")]
    first, second = (loaded([(kind, int(y)) for y in Y]).splits["test"].images for kind in kinds)
    assert torch.equal(first, second)
    deep = Image.fromarray(np.full((6, 8), 0x1234, np.uint16))
    assert (loaded([(deep, int(y)) for y in Y]).splits["test"].images == 0x12).all()


def test_pictures_below_the_folder_of_a_class_belong_to_it(tmp_path):
    for number, name in enumerate(["a/1", "a/deeper/1", "b/.hidden/1", "b/1"] * 5):
        path = tmp_path / f"{name}-{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        colours().save(path)
    made = qs.datasets.image_folder(tmp_path, 8)
    assert sum(len(split) for split in made.splits.values()) == 15 and made.labels == ("a", "b")


class Dicts:
    """As datasets of Hugging Face give them."""

    def __len__(self):
        return N

    def __getitem__(self, index):
        return {"image": X[index], "label": int(Y[index])}


class Streaming(IterableDataset):
    def __iter__(self):
        yield from zip(torch.from_numpy(X), Y.tolist(), strict=True)


def test_dicts_of_an_input_and_a_label_are_pairs():
    expected = arrays(X, Y).splits["test"].images
    collated = DataLoader(Dicts(), collate_fn=torch.utils.data.default_collate, batch_size=7)
    for data in (Dicts(), DataLoader(Dicts(), batch_size=7), collated):
        assert torch.equal(loaded(data).splits["test"].images, expected)


def test_what_is_in_training_and_tested_is_said(tmp_path):
    parts = {"train": slice(0, 40), "val": slice(40, 60), "test": slice(0, 20)}
    twice = arrays({name: (X[part], Y[part]) for name, part in parts.items()})
    assert twice.notes == (
        "20 of 20 inputs of 'test' are in 'train' too: its figures flatter what has learned them",
    )
    pairs = [(row, int(y)) for row, y in zip(X, Y, strict=True)]
    lazy = loaded({name: pairs[part] for name, part in parts.items()}, in_memory=False)
    assert lazy.notes == twice.notes and arrays(X, Y).notes == ()
    # each of two workers reads the whole stream
    doubled = loaded(DataLoader(Streaming(), batch_size=8, num_workers=2))
    assert "inputs of 'test' are in 'train' too" in doubled.notes[-1]
    for name, seed in {"train/a": 0, "train/b": 8, "val/a": 16, "test/a": 2, "test/b": 24}.items():
        (tmp_path / name).mkdir(parents=True)
        for number in range(4):
            pixels = np.random.default_rng(seed + number).integers(0, 255, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    (note,) = qs.datasets.image_folder(tmp_path, 8, in_memory=False).notes
    assert note.startswith("2 of 8 inputs of 'test' are in 'train' too")


class Broken(Dicts):
    def __getitem__(self, index):
        if index == 7:
            raise ValueError("half a file")
        return X[index], Y[index]


class Augmented(Dicts):
    """Flipped at random, by the same numbers in every run of the tests; the first stays."""

    def __init__(self):
        self.random = np.random.default_rng(0)

    def __getitem__(self, index):
        flip = index > 0 and self.random.random() < 0.5
        return X[index][:: -1 if flip else 1].copy(), Y[index]


NAMES = np.array(["a", "b", None], object)[Y]
LONG = {"n": np.arange(N) + 2**60, "k": Y}
REFUSALS = {
    "labels from 1": (lambda: arrays(X, Y + 1), "labels from 1 to 3: they begin at 0, give labels - 1"),
    "no name": (lambda: arrays(X, NAMES), "example 2 of 'train' has no label"),
    "an empty name": (lambda: arrays(X, np.array(["a", ""])[Y % 2]), "example 1 of 'train' has no"),
    "one class": (lambda: arrays(X, Y * 0), "all labels are 0: give examples of at least 2"),
    "-100": (lambda: arrays(X, np.where(Y == 2, -100, Y)), "leave out what has no class"),
    "classes twice": (lambda: arrays(X, Y, classes=["a", "a", "b"]), "list of names, each once"),
    "classes as text": (lambda: arrays(X, Y, classes="abc"), "classes 'abc': expected a list"),
    "beyond float32": (lambda: arrays(np.full((N, 4), 1e300), Y), "more than float32 holds"),
    "meta": (lambda: arrays(torch.empty(N, 2, device="meta"), Y), "on the device meta: give dense"),
    "sparse": (lambda: arrays(torch.eye(N).to_sparse(), Y), "sparse_coo: give dense"),
    "a number": (lambda: arrays(np.float32(1), Y), "a single number"),
    "lists of lengths": (lambda: arrays([[1, 2], [3]], [0, 1]), "differ in length: make them alike"),
    "two inputs": (
        lambda: loaded([((X[0], X[1]), 0)] * N),
        "are a tuple of several, a dataset has one: join them .* use qs.quantize or qs.prepare",
    ),
    "a dict of inputs": (lambda: loaded([({"a": X[0]}, 0)] * N), "are a dict of several"),
    "a dict of three": (lambda: loaded([{"a": 1, "b": 2, "y": 3}] * N), "a dict of a, b, y: expected"),
    "a broken example": (lambda: loaded(Broken()), "example 7 of 'train' cannot be read: .* half a file"),
    "by workers": (lambda: loaded(Broken(), workers=1), "example 7 of 'train' cannot be read: "),
    "hidden randomness": (lambda: loaded(Augmented()), "is another one when it is read again"),
    "a batch": (lambda: loaded([(X, Y)] * 9), "batches come from a DataLoader"),
    "ids": (
        lambda: qs.datasets.from_table({"id": [f"u{n}" for n in range(N)], "k": Y}, "k"),
        "column 'id' has another value in every example",
    ),
    "dates": (
        lambda: qs.datasets.from_table({"d": np.full(N, "2020-01-01", "datetime64[D]"), "k": Y}, "k"),
        "column 'd' is datetime64.*: make numbers of it",
    ),
    "long numbers": (lambda: qs.datasets.from_table(LONG, "k"), "more digits in common than float32"),
    "marks of 2": (
        lambda: arrays(X, np.eye(3)[Y] * 2, task="multilabel"),
        "run from 0 to 2: expected 0 or 1 for each label",
    ),
    "masks below 0": (
        lambda: arrays(X, MASKS - 1, task="segmentation"),
        "hold -1: expected classes 0..., or -100 where there is none",
    ),
    "real masks": (lambda: arrays(X, MASKS / 2, task="segmentation"), "expected whole numbers"),
    "size": (lambda: qs.datasets.image_folder(".", "8"), "expected pixels above zero, or"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_what_would_be_taken_for_something_else_is_refused(case):
    act, message = REFUSALS[case]
    with pytest.raises(qs.InputError, match=message):
        act()


def test_pixels_without_a_class_count_neither_way():
    logits = torch.tensor([[[[2.0, 0.0], [2.0, 0.0]], [[0.0, 2.0], [0.0, 2.0]]]]).repeat(2, 1, 1, 1)
    targets = torch.tensor([[[0, 0], [IGNORED, IGNORED]], [[IGNORED] * 2] * 2])
    task = TASKS["segmentation"]
    check_targets(task, targets, "masks", classes=2)
    with pytest.raises(qs.InputError, match=r"masks hold 255: expected classes 0\.\.\.1, or -100"):
        check_targets(task, targets.clamp(max=0) + 255, "masks", classes=2)
    assert task.scores(logits, targets).tolist() == [0.5, 1.0]
    assert torch.equal(task.loss(logits, targets), task.loss(logits[:1, :, :1], targets[:1, :1]))
