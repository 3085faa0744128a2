"""What a package is expected to say of itself, said once."""

import configparser
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import qstrategies
from qstrategies.strategies.clamp import Clamp

ROOT = Path(__file__).parent.parent


def test_the_citation_names_this_version_and_licence():
    citation = dict(re.findall(r"^([a-z-]+): (.+)$", (ROOT / "CITATION.cff").read_text(), re.M))
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert citation["version"] == qstrategies.__version__
    assert citation["license"] == setup["metadata"]["license"]
    assert citation["title"].strip('"').startswith(f"{setup['metadata']['name']}: ")


def test_the_version_is_a_semantic_one():
    assert re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", qstrategies.__version__)


def test_what_a_package_holds_besides_code_is_declared():
    """A file that package_data forgets is missing in the wheel, and in no test of a checkout."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = setup["options.package_data"]["qstrategies"].split()
    package = ROOT / "qstrategies"
    declared = {path for pattern in patterns for path in package.glob(pattern)}
    made = {"__pycache__", "node_modules"}
    files = {path for path in package.rglob("*") if path.is_file() and path.suffix != ".py"}
    assert {path for path in files if not made & set(path.parts)} <= declared


def test_a_prompt_completes_what_there_is_before_it_is_loaded():
    script = (
        "import sys, qstrategies as qs; print(*dir(qs), *dir(qs.datasets), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    offered = done.stdout.split()
    assert {*qstrategies.__all__, "image_folder", "register"} <= {*offered}
    assert offered[-1] == "False"


def test_what_a_prompt_shows_of_things_says_what_they_are():
    arrays = np.zeros((20, 4), np.float32), np.arange(20) % 2
    dataset = qstrategies.datasets.from_arrays(*arrays, name="mine")
    assert repr(dataset).startswith("MadeDataset(mine: arrays, 2 classes, ")
    assert repr(Clamp(threshold=0.2)) == "Clamp(threshold=0.2, sigma=0)"
    trainee = qstrategies.prepare(nn.Linear(4, 2), torch.rand(2, 4), Clamp())
    assert repr(trainee) == "Trainee(Clamp(threshold=0.1, sigma=0) after 0 steps)"
    config = qstrategies.ExperimentConfig(strategy="qat")
    record = qstrategies.RunRecord(config=config, status="failed", environment={})
    assert repr(record) == f"RunRecord({config.run_id}: failed, float None, int8 None)"
