"""The committed models load everywhere and are as accurate as their card says."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qstrategies.certificate import certify
from qstrategies.execution.crosscheck import run_in_batches
from qstrategies.execution.distance import logits_hash
from qstrategies.experiment.comparison import DEFAULT_STRATEGIES
from qstrategies.onnx_file import read_metadata
from qstrategies.runtimes import RUNTIMES, runtimes_for

FOLDER = Path(__file__).parent.parent / "exported"
FILES = sorted(FOLDER.glob("*.onnx"))
FOLDERS = sorted(path.parent for path in FOLDER.rglob("SHA256SUMS"))
INSTALLED = [
    name for name in runtimes_for(Path("model.onnx")) if RUNTIMES.get(name).missing() is None
]
PART = 64
WHOLE = [name for name in INSTALLED if RUNTIMES.get(name).image_limit is None]


def test_both_forms_of_every_strategy_are_there():
    assert {path.name for path in FILES} == {
        f"{name}{form}" for name in DEFAULT_STRATEGIES for form in (".onnx", ".fast.onnx")
    }


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_checksums_hold(folder):
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    sums = dict(reversed(line.split("  ")) for line in lines)
    files = [path for path in folder.iterdir() if path.suffix not in ("", ".md")]
    assert sums == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(("place", "path"), [*enumerate(FILES)], ids=[each.name for each in FILES])
def test_every_runtime_gives_pytorchs_bits_and_one_the_recorded_accuracy_of_all_test_images(
    place, path, mnist
):
    metadata = read_metadata(path)
    images, labels = mnist["test"].images.numpy(), mnist["test"].labels.numpy()
    in_turn = WHOLE[place % len(WHOLE)]
    whole = run_in_batches(RUNTIMES.get(in_turn)(path), images)
    assert (whole.argmax(1) == labels).mean() == pytest.approx(metadata["accuracy"], abs=1e-9)
    assert logits_hash(whole) == metadata["logits_sha256"], in_turn
    for name in WHOLE:
        logits = run_in_batches(RUNTIMES.get(name)(path), images[:PART])
        np.testing.assert_array_equal(logits, whole[:PART], err_msg=name)


@pytest.mark.parametrize("name", [name for name in INSTALLED if name not in WHOLE])
@pytest.mark.parametrize(
    "file", ["qat.onnx", "qat.fast.onnx", "weight_norm.onnx", "weight_norm.fast.onnx"]
)
def test_the_other_runtimes_give_the_same_bits_on_a_part(name, file, mnist):
    images = mnist["test"].images.numpy()[: min(RUNTIMES.get(name).image_limit, PART)]
    expected = RUNTIMES.get("onnxruntime-disabled")(FOLDER / file).run(images)
    np.testing.assert_array_equal(RUNTIMES.get(name)(FOLDER / file).run(images), expected)


IN_AN_OLD_RUNTIME = """
import sys
import numpy as np, onnxruntime
images, *pairs = sys.argv[1:]
for path, expected in zip(pairs[::2], pairs[1::2]):
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        same = (session.run(None, {"image": np.load(images)})[0] == np.load(expected)).all()
        print(onnxruntime.__version__, "same" if same else f"{path} differs at {level}")
"""


def test_the_oldest_onnxruntime_that_is_promised_gives_the_same_bits(mnist, tmp_path):
    python = os.environ.get("QSTRATEGIES_OLDEST_PYTHON")
    if python is None:
        pytest.skip(
            "QSTRATEGIES_OLDEST_PYTHON names no Python that has the oldest ONNX Runtime; "
            ".ci/run makes one"
        )
    images = mnist["test"].images.numpy()[:1000]
    np.save(tmp_path / "images.npy", images)
    pairs = []
    for path in FILES:
        pairs += [path, tmp_path / f"{path.name}.npy"]
        np.save(pairs[-1], RUNTIMES.get("onnxruntime-disabled")(path).run(images))
    command = [python, "-c", IN_AN_OLD_RUNTIME, tmp_path / "images.npy", *pairs]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    (oldest,) = re.findall(
        r"oldest is\s+ONNX\s+Runtime\s+([\d.]+)", (FOLDER.parent / "docs/same_bits.md").read_text()
    )
    assert lines == [f"{oldest} same"] * 4 * len(FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_card_says_the_recorded_accuracy(path):
    (accuracy,) = re.findall(
        rf"\| {re.escape(path.name)} \| ([\d.]+)% \|", (FOLDER / "CARD.md").read_text()
    )
    assert float(accuracy) == pytest.approx(read_metadata(path)["accuracy"] * 100, abs=0.005)
    assert path.stat().st_size < 46_000


def test_the_readmes_client_runs(mnist, tmp_path):
    from PIL import Image

    code = re.search(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(), re.S).group(1)
    Image.fromarray(mnist["test"].images[0, 0].numpy()).save(tmp_path / "digit.png")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "digit.png")],
        capture_output=True,
        text=True,
        cwd=FOLDER.parent,
    )
    assert done.stdout.strip() == str(mnist["test"].labels[0].item()), done.stderr


FIXED_POINT = FOLDER / "fixed_point"


@pytest.mark.parametrize("strategy", ["no_norm", "qat"])
def test_models_for_fixed_point_kernels_are_certified_and_give_the_same_bits_there(strategy, mnist):
    pytest.importorskip("tflite", reason="the package tflite is not installed")
    paths = [FIXED_POINT / f"{strategy}{suffix}" for suffix in (".onnx", ".tflite")]
    assert certify(paths[0]).holds("fixed_point")
    images = mnist["test"].images.numpy()[:100]
    expected = RUNTIMES.get("onnxruntime-all")(paths[0]).run(images)
    for name in runtimes_for(paths[1]):
        if RUNTIMES.get(name).missing() is None:
            found = RUNTIMES.get(name)(paths[1]).run(images)
            np.testing.assert_array_equal(found, expected, err_msg=name)
