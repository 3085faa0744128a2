"""The committed models load everywhere and are as accurate as their card says."""

import hashlib
import re
from pathlib import Path

import pytest

from qstrategies.comparison import DEFAULT_STRATEGIES
from qstrategies.crosscheck import run_in_batches
from qstrategies.onnx_file import read_metadata
from qstrategies.pipeline import logits_hash
from qstrategies.runtimes import RUNTIMES

FOLDER = Path(__file__).parent.parent / "exported"
FILES = sorted(FOLDER.glob("*.onnx"))
WHOLE = [name for name in RUNTIMES.names() if RUNTIMES.get(name).image_limit is None and RUNTIMES.get(name).missing() is None]


def test_both_forms_of_every_strategy_are_there():
    assert {path.name for path in FILES} == {f"{name}{form}" for name in DEFAULT_STRATEGIES for form in (".onnx", ".fast.onnx")}


def test_checksums_hold():
    lines = dict(reversed(line.split("  ")) for line in (FOLDER / "SHA256SUMS").read_text().splitlines())
    assert lines == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_runtime_gives_the_recorded_accuracy_and_pytorchs_bits_on_all_test_images(path, mnist):
    metadata = read_metadata(path)
    images, labels = mnist["test"].images.numpy(), mnist["test"].labels.numpy()
    for name in WHOLE:
        logits = run_in_batches(RUNTIMES.get(name)(path), images)
        assert (logits.argmax(1) == labels).mean() == pytest.approx(metadata["accuracy"], abs=1e-9), name
        assert logits_hash(logits) == metadata["logits_sha256"], name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_card_says_the_recorded_accuracy(path):
    (accuracy,) = re.findall(rf"\| {re.escape(path.name)} \| ([\d.]+)% \|", (FOLDER / "CARD.md").read_text())
    assert float(accuracy) == pytest.approx(read_metadata(path)["accuracy"] * 100, abs=0.005)
    assert path.stat().st_size < 46_000


def test_the_readmes_client_runs(mnist, tmp_path):
    import subprocess
    import sys

    from PIL import Image

    code = re.search(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(), re.S).group(1)
    Image.fromarray(mnist["test"].images[0, 0].numpy()).save(tmp_path / "digit.png")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "digit.png")], capture_output=True, text=True, cwd=FOLDER.parent)
    assert done.stdout.strip() == str(mnist["test"].labels[0].item()), done.stderr
