"""What the certificate warns of does happen: kernels of older CPUs saturate, and some add the zero
point too early."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_certificate import layer
from torch.ao.nn import quantized as nnq

from qstrategies.certificate import certify_model

SATURATE = """\
import copy, json, sys
from pathlib import Path
import torch
from torch import nn
from qstrategies.certificate import certify
from qstrategies.export.onnx_export import export_onnx
from qstrategies.quantization import executables
from qstrategies.training.post_training import quantize
from qstrategies.records import QuantizationConfig

torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)).eval()
for parameter in model.parameters():
    nn.init.uniform_(parameter, 0.9, 1.0)  # neighbours of one sign, both near the largest
images = torch.randint(200, 256, (32, 1, 8, 8)).float()  # bright pixels
opposite = copy.deepcopy(model)
for parameter in opposite.parameters():
    nn.init.constant_(parameter, 1e-3)
    if parameter.dim() > 1:
        parameter.data.flatten(1)[:, :2] = torch.tensor([0.9, -1.0])
found = {}

def steps():
    difference = quantized.int8()(images) - quantized.reference()(images)
    return (difference.abs() / quantized.output_scale).max().item()

known = executables.saturates
cases = (("exact", model, True), ("free", model, False), ("opposite", opposite, True))
for name, model, exact in cases:
    config = QuantizationConfig(exact=exact, engine="fbgemm")
    quantized = quantize(model, [images / 255], images / 255, config=config, input_scale=1 / 255)
    executables.saturates = lambda *_: False
    kernels = steps()
    executables.saturates = known
    if name == "opposite":
        weights = [layer.rounded_layer.weight for layer in quantized.graph.layers]
        assert all(weight.min() < -100 and weight.max() > 100 for weight in weights)
    path = export_onnx(quantized, Path(sys.argv[1]) / f"{name}.onnx", optimize_for=None)[0].path
    found[name] = {"kernels": kernels, "int8": steps(), "safe": certify(path).holds("saturation_safe")}
print(json.dumps(found))
"""


def test_avx2_kernels_saturate_where_the_certificate_says_so_and_nowhere_else(tmp_path):
    if (
        "avx2" not in Path("/proc/cpuinfo").read_text()
        or "fbgemm" not in torch.backends.quantized.supported_engines
    ):
        pytest.skip("needs a CPU with AVX2 and torch's fbgemm")
    command = [sys.executable, "-c", SATURATE, str(tmp_path)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["exact"] == {"kernels": 0, "int8": 0, "safe": True}
    assert found["opposite"] == found["exact"], "two large weights, of either sign"
    free = found["free"]
    assert not free["safe"] and free["kernels"] > 50, "rounding alone moves a logit by some steps"
    assert free["int8"] <= 2, "what saturates is not used"


@pytest.mark.parametrize(("power", "proven"), [(-16, True), (-17, False)])
def test_onednn_adds_the_zero_point_before_rounding_and_loses_bits_where_the_certificate_says_so(
    power, proven
):
    """acc * 2^power lies one accumulator step above a tie. With the zero point added in float32
    first, that step may be lost."""
    if "onednn" not in torch.backends.quantized.supported_engines:
        pytest.skip("needs torch's onednn")
    bias = 2 ** (-power - 1) + 1
    certified = certify_model(
        layer([[0] * 4] * 2, [bias] * 2, transB=1, w=2.0**power, y=(1.0, 128))
    )
    assert certified.holds("integer_kernels") is certified.holds("float_executors") is proven
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "onednn"
    linear = nnq.Linear(4, 2)
    scales = torch.full((2,), 2.0**power, dtype=torch.float64)
    weight = torch.quantize_per_channel(
        torch.zeros(2, 4), scales, torch.zeros(2, dtype=torch.int64), 0, torch.qint8
    )
    linear.set_weight_bias(weight, torch.full((2,), bias * 2.0**power))
    linear.scale, linear.zero_point = 1.0, 128
    result = linear(torch.quantize_per_tensor(torch.zeros(1, 4), 1.0, 0, torch.quint8)).int_repr()
    torch.backends.quantized.engine = before
    assert (result == 129).all().item() is proven
