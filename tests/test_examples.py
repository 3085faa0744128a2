"""Every example runs, is short, calls the public names only, and gives the bits of our own loop
where sums are added in the same order.

That order is another one where our loop joins layers for speed (``fast_graph.py``), which is turned
off here, where gradients of several batches are added, and in several processes, each of which has
batch statistics of its own; and a compiler that fuses operators (inductor) rounds elsewhere.
"""

import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import qstrategies as qs
from qstrategies.datasets.base import Split
from qstrategies.datasets.torchvision_import import torchvision
from qstrategies.training import loop

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples"
NAMES = ["accumulation", "amp", "compiled", "ddp", "with_accelerate", "with_lightning"]
STEPS = 4
PUBLIC = {"model", "parameter_groups", "penalty", "after_step", "finish", "steps"}


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path, location):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("QSTRATEGIES_CACHE", str(location.cache))
    monkeypatch.chdir(tmp_path)


def example(name):
    return importlib.import_module(name)


def test_every_example_is_tested():
    assert {path.stem for path in FOLDER.glob("*.py")} == {"digits", *NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short_and_calls_public_names_only(name):
    text = (FOLDER / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 40
    assert f"`python examples/{name}.py`" in text.splitlines()[0]
    assert set(re.findall(r"\btrainee\.(\w+)", text)) <= PUBLIC
    assert set(re.findall(r"\bqs\.(\w+)", text)) <= set(qs.__all__)


def in_our_loop(monkeypatch, strategy, dtype=torch.float32):
    """The batches of the examples in their order, which our loop draws."""
    monkeypatch.setattr(loop, "fast_view", lambda model: model)
    monkeypatch.setattr(loop, "compute_dtype", lambda: dtype)
    digits = example("digits")
    images, labels = (torch.cat(each) for each in zip(*digits.batches(STEPS), strict=True))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(3)).argsort()
    pixels = (images * 255).round().to(torch.uint8)
    split = Split("train", pixels[order], labels[order])
    trainee = qs.prepare(
        digits.network(), images[:2], strategy, input_scale=digits.PIXEL_SCALE, steps=STEPS
    )
    config = qs.TrainingConfig(
        epochs=1, batch_size=64, optimizer="adam", schedule="constant", learning_rate=1e-3
    )
    loop.train(trainee, {"train": split, "validation": split}, config, seed=3)
    return bits(trainee)


def bits(trainee):
    """What the quantized model gives for some images."""
    (images, _), *_ = example("digits").batches(1)
    return trainee.finish().int8()((images * 255).round())


@pytest.mark.parametrize("strategy", ["qat", "lsq", "distill"])
def test_accumulating_one_batch_is_our_loop(monkeypatch, strategy):
    trainee = example("accumulation").main(STEPS, 1, strategy)
    assert torch.equal(bits(trainee), in_our_loop(monkeypatch, strategy))


def test_steps_are_counted_not_batches():
    trainee = example("accumulation").main(2, 3, "distill")
    again = example("accumulation").main(2, 3, "distill")
    assert trainee.steps == 2
    assert torch.equal(bits(trainee), bits(again))


@pytest.mark.parametrize("strategy", ["qat", "lsq"])
def test_mixed_precision_is_our_loop(monkeypatch, strategy):
    """Scaling by powers of two rounds nothing. (The teacher of "distill" computes in the dtype of
    the inputs, which our loop makes bfloat16 already.)"""
    trainee = example("amp").main(STEPS, strategy=strategy)
    assert trainee.steps == STEPS
    assert torch.equal(bits(trainee), in_our_loop(monkeypatch, strategy, torch.bfloat16))


def test_steps_that_the_scaler_skips_are_not_counted():
    trainee = example("amp").main(8, 2.0**127, "lsq")
    assert 0 < trainee.steps < 8
    assert len(bits(trainee).unique()) > 1


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def test_compiled_is_not_compiled(monkeypatch):
    """With a compiler that only captures, forward and backward."""
    for name in ("compiled", "accumulation"):
        monkeypatch.setattr(example(name), "network", small)
    trainee = example("compiled").main(STEPS, strategy="distill")
    assert torch.equal(bits(trainee), bits(example("accumulation").main(STEPS, 1, "distill")))


def test_both_processes_end_with_the_same_bits(tmp_path):
    example("ddp").main(STEPS, "lsq")
    first, second = (tmp_path / f"digits-{rank}.safetensors" for rank in (0, 1))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("strategy", ["qat", "distill"])
def test_accelerate_is_our_loop(monkeypatch, strategy):
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    main = example("with_accelerate").main
    assert torch.equal(bits(main(STEPS, 1, strategy)), in_our_loop(monkeypatch, strategy))
    parts = main(2, 2, strategy)
    assert torch.equal(bits(parts), bits(example("accumulation").main(2, 2, strategy)))


@pytest.mark.parametrize("strategy", ["qat", "distill"])
def test_lightning_is_our_loop(monkeypatch, strategy):
    torchvision()  # which lightning imports where it is installed
    pytest.importorskip("lightning", reason="lightning is not installed")
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    main = example("with_lightning").main
    trainee = main(STEPS, strategy, accelerator="cpu", **quiet)
    assert torch.equal(bits(trainee), in_our_loop(monkeypatch, strategy))
    accumulated = main(STEPS, strategy, accelerator="cpu", accumulate_grad_batches=2, **quiet)
    assert accumulated.steps == STEPS // 2


def test_an_example_runs_by_itself(tmp_path):
    subprocess.run([sys.executable, FOLDER / "accumulation.py"], check=True, capture_output=True)
    assert qs.certify(tmp_path / "digits.onnx").complete


def python_client(folder):
    return [sys.executable, FOLDER / "python/client.py"]


def node_client(folder):
    if not (FOLDER / "node/node_modules/onnxruntime-node").is_dir():
        pytest.skip("needs: npm ci --ignore-scripts --prefix examples/node")
    return ["node", FOLDER / "node/client.mjs"]


def cpp_client(folder):
    if not (shutil.which("cc") and shutil.which("c++")):
        pytest.skip("needs a C and a C++ compiler")
    qs.export_c(ROOT / "exported/qat.onnx", folder, "digit")
    strict = ["-O1", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{folder}"]
    digit, client = folder / "digit.o", folder / "client"
    compiled = ["cc", "-std=c99", *strict, "-c", folder / "digit.c", "-o", digit]
    linked = ["c++", "-std=c++17", *strict, FOLDER / "cpp/client.cpp", digit, "-o", client]
    for command in (compiled, linked):
        subprocess.run(command, check=True)
    return [client]


CLIENTS = {
    "python/client.py": python_client,
    "node/client.mjs": node_client,
    "cpp/client.cpp": cpp_client,
}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_is_short_and_says_whether_it_gives_the_golden_bits(client, tmp_path):
    page, text = (ROOT / "docs/deploy.md").read_text(), (FOLDER / client).read_text()
    assert len(text.splitlines()) <= 60
    commands = re.findall(
        r"^(?://|) *((?:python|node|npm|cc|c\+\+|build/client) .*)$", text, re.MULTILINE
    )
    assert commands and all(f"\n{command}\n" in page for command in commands)
    command = CLIENTS[client](tmp_path)
    vectors = tmp_path / "qat.vectors.json"
    for path in (ROOT / "exported/qat.onnx", ROOT / "exported" / vectors.name):
        shutil.copy(path, tmp_path)
    model = tmp_path / "qat.onnx"
    done = subprocess.run([*command, model], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{model}: equal, 4 of 4 golden vectors\n"
    golden = json.loads(vectors.read_text())
    golden["vectors"][2]["outputs"][0][5] ^= 1
    vectors.write_text(json.dumps(golden))
    done = subprocess.run([*command, model], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == f"{model}: NOT equal, 3 of 4 golden vectors\n"
