import gzip
import hashlib
import lzma
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from qstrategies.datasets import DATASETS
from qstrategies.datasets.base import CalibrationSet, Location
from qstrategies.datasets.idx import FILES, IdxDataset, read_idx
from qstrategies.datasets.mnist import MNIST
from qstrategies.datasets.show import show
from qstrategies.datasets.split import Split, stratified
from qstrategies.datasets.spoken_digits import SpokenDigits
from qstrategies.datasets.torchvision_import import torchvision
from qstrategies.errors import InputError
from qstrategies.records import QuantizationConfig


def idx(array):
    header = bytes([0, 0, 8, array.dim()]) + b"".join(
        size.to_bytes(4, "big") for size in array.shape
    )
    return header + array.to(torch.uint8).numpy().tobytes()


def test_mnist_has_the_official_sizes_and_every_pixel(mnist):
    assert {name: len(split) for name, split in mnist.items()} == {
        "train": 55000,
        "validation": 5000,
        "test": 10000,
    }
    assert all(
        split.images.shape[1:] == (1, 28, 28) and split.images.dtype == torch.uint8
        for split in mnist.values()
    )
    pixels = torch.cat([mnist["train"].images, mnist["validation"].images]).double()
    assert pixels.mean().item() / 255 == pytest.approx(0.1306604762738429), (
        "the published mean of the 60 000 images"
    )


def test_the_validation_split_is_stratified_disjoint_and_always_the_same(mnist):
    train, validation = (mnist[name].labels.bincount().double() for name in ("train", "validation"))
    shares = (train + validation) / 60000 * 5000
    assert (validation - shares).abs().max() < 1
    labels = torch.cat([mnist["train"].labels, mnist["validation"].labels])
    chosen = stratified(labels, 5000, 1)
    assert len(chosen.unique()) == 5000
    assert torch.equal(chosen, stratified(labels, 5000, 1)) and not torch.equal(
        chosen, stratified(labels, 5000, 2)
    )


def test_calibration_images_come_from_train_only(mnist):
    chosen = CalibrationSet(mnist["train"], 64, seed=0).images
    assert chosen.shape == (64, 1, 28, 28)
    assert torch.equal(chosen, CalibrationSet(mnist["train"], 64, seed=0).images)
    for name in ("validation", "test"):
        with pytest.raises(InputError, match=f"come from the split 'train', not '{name}'"):
            CalibrationSet(mnist[name], 64, seed=0)
    with pytest.raises(InputError, match="55001 calibration images of 55000 training images: ask"):
        CalibrationSet(mnist["train"], 55001, seed=0)


def test_the_usual_number_of_calibration_images_is_all_where_there_are_fewer():
    few = Split("train", torch.zeros(300, 1, 2, 2), torch.zeros(300, dtype=torch.int64))
    usual = QuantizationConfig().calibration_images
    assert len(CalibrationSet(few, usual, seed=0).images) == 300
    with pytest.raises(InputError, match="301 calibration images of 300 training images"):
        CalibrationSet(few, 301, seed=0)


def test_a_damaged_cache_is_repaired_from_the_package(tmp_path):
    dataset = MNIST(Location(cache=tmp_path))
    before = dataset.splits["test"].labels
    path = tmp_path / "MNIST" / "raw" / FILES[3]
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    assert torch.equal(MNIST(Location(cache=tmp_path)).splits["test"].labels, before)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: len(data) // 2], "is damaged"),
        (lambda data: b"", "is damaged"),
        (lambda data: lzma.compress(b"something else"), "is not the file of mnist: MD5"),
        (None, "has no file 't10k-labels-idx1-ubyte'"),
    ],
)
def test_a_missing_truncated_or_altered_source_is_refused_and_nothing_is_left(
    tmp_path, damage, message
):
    folder, cache = tmp_path / "source", tmp_path / "cache"
    folder.mkdir()
    for name in FILES:
        data = (MNIST.packaged / f"{name}.xz").read_bytes()
        if name == FILES[3]:
            data = damage(data) if damage else None
        if data is not None:
            (folder / f"{name}.xz").write_bytes(data)
    with pytest.raises(InputError, match=message):
        MNIST(Location(cache=cache, folder=folder)).splits
    assert not (cache / "MNIST" / "raw" / FILES[3]).exists()


def test_fashion_mnist_says_where_it_can_come_from(tmp_path):
    with pytest.raises(
        InputError, match="give --data-dir FOLDER with its IDX files, or --download"
    ):
        DATASETS.get("fashion_mnist")(Location(cache=tmp_path)).splits


IMAGES = torch.arange(6000 * 4).remainder(251).reshape(6000, 2, 2)
PARTS = [
    idx(IMAGES),
    idx(torch.arange(6000) % 10),
    idx(IMAGES[:50]),
    idx(torch.arange(50) % 10),
]


class Tiny(IdxDataset):
    name, summary, labels, torchvision_class = "tiny", "", tuple("0123456789"), "FashionMNIST"
    md5 = tuple(hashlib.md5(data).hexdigest() for data in PARTS)


def test_a_users_folder_of_plain_and_gz_files_is_read(tmp_path):
    for name, data, suffix in zip(FILES, PARTS, ["", ".gz", ".xz", ""], strict=True):
        packed = {"": data, ".gz": gzip.compress(data), ".xz": lzma.compress(data)}[suffix]
        (tmp_path / (name + suffix)).write_bytes(packed)
    splits = Tiny(Location(cache=tmp_path / "cache", folder=tmp_path)).splits
    assert torch.equal(splits["test"].images[:, 0], IMAGES[:50])
    assert len(splits["train"]) == 1000 and len(splits["validation"]) == 5000


@pytest.fixture
def other_torchvision(monkeypatch):
    """Puts something else in the place of torchvision, for the length of a test."""
    yield lambda module: (
        torchvision.cache_clear(),
        monkeypatch.setitem(sys.modules, "torchvision", module),
    )
    torchvision.cache_clear()


def test_torchvision_downloads_what_is_not_there_and_only_that(tmp_path, other_torchvision):
    asked = []

    def download(root, download):
        asked.append((root, download))
        folder = tmp_path / "FashionMNIST" / "raw"
        folder.mkdir(parents=True)
        for name, data in zip(FILES, PARTS, strict=True):
            (folder / name).write_bytes(data)

    stand_in = ModuleType("torchvision")
    stand_in.datasets = SimpleNamespace(FashionMNIST=download)
    other_torchvision(stand_in)
    for _ in range(2):
        splits = Tiny(Location(cache=tmp_path, download=True)).splits
        assert torch.equal(splits["test"].images[:, 0], IMAGES[:50])
    assert asked == [(str(tmp_path), True)]


def test_only_a_download_needs_torchvision_and_names_the_extra(tmp_path, other_torchvision):
    other_torchvision(None)
    assert len(MNIST(Location(cache=tmp_path)).splits["test"]) == 10000
    dataset = DATASETS.get("fashion_mnist")(Location(cache=tmp_path, download=True))
    with pytest.raises(
        InputError, match=r"not installed: pip install 'qstrategies\[torchvision\]'"
    ):
        dataset.splits


def test_torchvision_reads_the_same(location, mnist):
    try:
        kind = torchvision().datasets.MNIST
    except InputError as error:
        pytest.skip(str(error))
    theirs = kind(str(location.root), train=False)
    assert torch.equal(theirs.data, mnist["test"].images[:, 0])
    assert torch.equal(theirs.targets, mnist["test"].labels)
    assert theirs.targets.dtype == mnist["test"].labels.dtype


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(3),
        bytes([0, 0, 8, 0]),
        bytes([0, 0, 8, 255]),
        idx(IMAGES)[:-1],
        idx(IMAGES) + b"0",
        idx(IMAGES[:0]),
        bytes([0, 0, 13]) + idx(IMAGES)[3:],
        bytes([1, 0, 8]) + idx(IMAGES)[3:],
    ],
    ids=range(9),
)
def test_what_is_no_idx_file_of_bytes_is_refused(data):
    assert torch.equal(read_idx("images", idx(IMAGES)), IMAGES)
    with pytest.raises(InputError, match="'images' is not an IDX file of bytes"):
        read_idx("images", data)


def test_show_draws_a_picture_and_counts_every_image(location, tmp_path):
    text, counts = show(MNIST(location), tmp_path)
    assert (tmp_path / "mnist.png").read_bytes().startswith(b"\x89PNG")
    assert {name: sum(column) for name, column in counts.items()} == {
        "train": 55000,
        "validation": 5000,
        "test": 10000,
    }
    assert "5429" in text


@pytest.mark.parametrize("name", DATASETS.names())
def test_every_dataset_describes_itself(name):
    kind = DATASETS.get(name)
    assert issubclass(kind, IdxDataset)
    assert kind.summary and len(kind.labels) > 1 and len(kind.md5) == len(kind.files)
    assert kind.packaged or kind.torchvision_class, "it comes from somewhere"


def test_no_speaker_of_spoken_digits_is_in_two_splits(location):
    dataset = SpokenDigits(location)
    assert sorted(sum(dataset.speakers.values(), ())) == list(range(6))
    for name, split in dataset.splits.items():
        voices = len(dataset.speakers[name])
        assert split.images.shape == (500 * voices, 1, 49, 10) and split.images.dtype == torch.uint8
        assert split.labels.bincount().tolist() == [50 * voices] * 10


def test_the_map_to_bytes_is_that_of_the_speakers_who_train(location):
    train = SpokenDigits(location).splits["train"].images.double()
    highest = (train == 255).double().mean((0, 1, 2))
    assert ((highest >= 0.001) & (highest < 0.01)).all(), "0.1 %, and what rounds to 255"


def test_a_packaged_dataset_is_not_downloaded(tmp_path, other_torchvision):
    other_torchvision(None)
    assert len(SpokenDigits(Location(cache=tmp_path, download=True)).splits["test"]) > 0
