"""A short run of the fuzzer, what it draws, and the networks on which longer runs once found
different bits."""

import contextlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from everywhere import check
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
from fuzz import fuzz
from fuzz_networks import SHAPES, case

from qstrategies.errors import InputError
from qstrategies.operators import FORMS, RECOGNIZERS
from qstrategies.operators.drawing import DRAWINGS
from qstrategies.operators.extremum import Extremum
from qstrategies.quantization.float_graph import normalized_copy
from qstrategies.quantization.structure import Arguments
from qstrategies.records import QuantizationConfig

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, about what is drawn
NETWORKS = 400
TFLITE = importlib.util.find_spec("tflite") is not None
EXPERIMENTS = str(Path(__file__).parent.parent / "experiments")


def test_random_networks_give_the_same_bits_everywhere():
    results = list(fuzz(range(60)))
    assert [result.fault for result in results if result.fault] == []
    equal = [result for result in results if result.outcome.startswith("the same bits")]
    far = [result for result in equal if result.outcome.endswith("float model")]
    assert len(equal) >= 45, "few are refused, and few not certified"
    assert len(far) <= 3, "few magnify the noise of quantization"
    fixed = [result for result in results if "fixed-point kernels too" in result.outcome]
    assert len(fixed) >= 5 or not TFLITE, "some are drawn for fixed-point kernels"


def test_a_wrong_operator_is_found_and_shrunk_to_itself(monkeypatch):
    right = Extremum.integers
    monkeypatch.setattr(Extremum, "integers", lambda self, a, b: right(self, a, b) | np.uint8(1))
    wrong = {"maximum", torch.maximum}
    numbers = (number for number in range(NETWORKS) if parts(case(number).network) & wrong)
    fault = next(result.fault for result in fuzz(numbers) if result.fault)
    assert "not the bits of the specification" in fault
    drawn = [line for line in fault.splitlines() if " = " in line and line.startswith("  t")]
    assert len(drawn) <= 2, fault


def parts(module):
    """What ``module`` is made of, by the keys of ``RECOGNIZERS``."""
    modules = module.modules()
    return {getattr(each, "target", getattr(each, "function", type(each))) for each in modules}


def test_a_network_follows_from_its_number_alone():
    script = f"import sys; sys.path.insert(0, {EXPERIMENTS!r}); import fuzz_networks as f; "
    script += "print(*(f.case(number) for number in range(20)), sep='\\n')"
    other = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == "\n".join(str(case(number)) for number in range(20))
    first, again = (list(case(3).network.state_dict().values()) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_every_file_with_an_exact_form_says_what_may_be_drawn_of_it():
    recognizers = [getattr(each, "func", each) for each in RECOGNIZERS.values()]
    files = {each.__module__ for each in recognizers}
    assert files <= {drawing.file for drawing in DRAWINGS if drawing.exact}


def test_every_call_that_is_recognized_may_be_drawn():
    drawn = set()
    for drawing in DRAWINGS:
        random = Random(0)  # whatever else may be drawn
        for _ in range(300):
            shape = random.choice(SHAPES)
            with contextlib.suppress(ValueError):  # what torch refuses
                module = drawing.draw(random, *[shape] * drawing.inputs)
                drawn |= set() if module is None else parts(module)
    assert set(RECOGNIZERS) - drawn == set()


def test_every_form_is_drawn():
    known, forms = set(), set()
    for number in range(3 * NETWORKS):
        if set(FORMS) <= forms:
            return
        found = case(number)
        if parts(found.network) <= known:
            continue
        known |= parts(found.network)
        with contextlib.suppress(InputError):  # a tensor changed in place under another view
            arguments = Arguments.of(found.network, found.inputs(2))
            graph = normalized_copy(found.network, arguments, trains=True).module
            forms |= {type(module) for module in graph.modules()}
    raise AssertionError(f"never drawn: {set(FORMS) - forms}")


class Residual(nn.Module):
    """x + branch(x)."""

    def __init__(self, branch):
        super().__init__()
        self.branch = branch

    def forward(self, x):
        return x + self.branch(x)


class Concat(Residual):
    """x beside branch(x)."""

    def forward(self, x):
        return torch.cat([x, self.branch(x)], 1)


def conv(outputs=4, **settings):
    return nn.Conv2d(4, outputs, 1, **settings)


FOUND = {
    "a residual connection from the pixels: their step had no layer to be folded into": nn.Sequential(
        Residual(conv())
    ),
    "a concatenation from the pixels": nn.Sequential(Concat(nn.Sequential(conv()))),
    "ReLU6 before a concatenation: torch.ao drops the shared observer": nn.Sequential(
        conv(), Concat(nn.Sequential(conv(), nn.ReLU6()))
    ),
    "an average pool as the first layer: its input was not observed": nn.Sequential(
        nn.AvgPool2d(2), conv()
    ),
    "no bias: the exporter computed its zeros in the graph": nn.Sequential(
        conv(bias=False), nn.ReLU(), conv(bias=False)
    ),
    "a tie in a residual addition: qnnpack rounds it away from zero": nn.Sequential(
        conv(), nn.ReLU(), Residual(conv()), nn.ReLU()
    ),
    "in-place ReLU6: qnnpack mixes up memory layouts": nn.Sequential(
        nn.Conv2d(4, 6, 3, stride=2), nn.ReLU6(inplace=True), nn.Conv2d(6, 3, 1)
    ),
    "batch norm and ReLU behind a transposed convolution: torch.ao folds neither": nn.Sequential(
        nn.ConvTranspose2d(4, 4, 2, stride=2), nn.BatchNorm2d(4), nn.ReLU(), conv()
    ),
    "the same with groups": nn.Sequential(
        nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2), nn.BatchNorm2d(4), nn.ReLU(), conv()
    ),
    "a transposed convolution: fbgemm packs wrong weights": nn.Sequential(
        conv(8), nn.ReLU(), nn.ConvTranspose2d(8, 8, 2, stride=2)
    ),
}


@pytest.mark.parametrize(
    ("per_channel", "input_scale"),
    [(True, 1 / 255), (False, None)],
    ids=["pixels", "real values, per tensor"],
)
@pytest.mark.parametrize("network", FOUND.values(), ids=FOUND)
def test_what_was_found_stays_mended(network, per_channel, input_scale, tmp_path):
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
    config = QuantizationConfig(per_channel=per_channel)
    inputs = (torch.rand(24, 4, 12, 12),)
    check(network, tmp_path, inputs, least=15, config=config, input_scale=input_scale)
