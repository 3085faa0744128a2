"""The C99 form: the bits of the file, under the strictest of compilers, and on a Cortex-M."""

import itertools
import re
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from drawn import drawn_networks
from torch import nn

import qstrategies as qs
from qstrategies.errors import InputError
from qstrategies.evaluation import Evaluation
from qstrategies.execution.crosscheck import check_runtime
from qstrategies.execution.verify import verify
from qstrategies.export.c99.arena import arena_of
from qstrategies.export.c99.text import kernel
from qstrategies.export.forms import write_form
from qstrategies.runtimes import RUNTIMES
from qstrategies.specification.lowering import program_of

ROOT = Path(__file__).parent.parent
QAT = ROOT / "exported" / "qat.onnx"
CORTEX_M = ROOT / "examples" / "cortex_m" / "run"
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
SANITIZED = ("-fsanitize=undefined", "-fno-sanitize-recover=all")

pytestmark = pytest.mark.skipif(
    RUNTIMES.get("c99").missing() is not None, reason="there is no C compiler"
)


def compiled(folder, *sources, flags=(*STRICT, *SANITIZED, "-O0")):
    """What the program prints, which must end with 0."""
    command = ["cc", *flags, *sources, "-o", "program"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return subprocess.run([folder / "program"], capture_output=True, text=True)


@pytest.fixture(scope="module")
def qat(tmp_path_factory):
    return qs.export_c(QAT, tmp_path_factory.mktemp("qat"), "qat").path


def test_networks_of_every_operator_pass_their_self_test(tmp_path):
    kinds = set()
    for each in drawn_networks(tmp_path):
        qs.export_c(each.path, tmp_path)
        assert compiled(tmp_path, "model.c", "model_test.c").returncode == 0, each.name
        kinds |= {node.kind for node in program_of(each.path).nodes}
    assert len(kinds) == 15


def test_the_cnn_gives_the_bits_of_its_file_on_digits(qat, mnist):
    images = mnist["test"].images.numpy()[:500]
    expected = RUNTIMES.get("onnxruntime-disabled")(QAT).run(images)
    np.testing.assert_array_equal(RUNTIMES.get("c99")(qat).run(images), expected)


WINDOWS = {
    "one channel for several": (nn.Conv2d(1, 6, 3, padding=1), (1, 9, 19)),
    "a stride of two": (nn.Conv2d(3, 3, (5, 4), 2, padding=2, groups=3), (3, 11, 37)),
    "a stride beyond the kernel": (nn.Conv2d(2, 4, 2, 3, groups=2), (2, 10, 17)),
    "dilated planes": (nn.Conv2d(3, 6, 3, (1, 2), 2, (2, 3), groups=3), (3, 9, 40)),
    "a line": (nn.Conv1d(4, 4, 5, 2, padding=3, groups=4), (4, 70)),
    "a volume": (nn.Conv3d(2, 2, 3, (2, 1, 2), 1, groups=2), (2, 5, 6, 7)),
    "groups": (nn.Conv2d(6, 10, 3, padding=1, groups=2), (6, 7, 5)),
    "a slide of two": (nn.Conv2d(3, 5, (2, 5), (1, 2), (0, 2)), (3, 6, 21)),
    "dilated channels": (nn.Conv2d(3, 7, 3, 1, 2, 2), (3, 8, 9)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, 2, 1, groups=2), (4, 5, 6)),
    "a transposed plane": (nn.ConvTranspose2d(1, 3, 3, 2), (1, 5, 6)),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_every_window_reads_what_its_layer_reads(name, tmp_path):
    torch.manual_seed(0)
    layer, shape = WINDOWS[name]
    data = torch.randn(32, *shape)
    quantized = qs.quantize(layer.eval(), [data], data[:2])
    file = qs.export_c(quantized, tmp_path)
    sanitized = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1")
    assert (
        compiled(tmp_path, "model.c", "model_test.c", flags=(*STRICT, *sanitized)).returncode == 0
    )
    report = qs.cross_check(file, 3 * data)
    assert [each.rows_equal for each in report.checks if each.runtime == "c99"] == [1.0]


def test_it_is_plain_c(qat):
    assert compiled(qat.parent, "qat.c", "qat_test.c").returncode == 0
    text = qat.read_text() + qat.with_suffix(".h").read_text()
    assert set(re.findall(r"#include (.*)", text)) == {"<stdint.h>", '"qat.h"'}
    code = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    assert not re.search(r"\b(float|double|malloc|calloc|alloca|goto)\b|\d\.\d", code)
    lines = text.splitlines()
    assert max(len(line) for line in lines if "qstrategies-c99" not in line) <= 100


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [("qat.c", r"weight_5\[16000\] = {\n    ", "100, "), ("qat_test.c", r"expected_1_0\[10\] = {\n    9", "8")],
)  # fmt: skip
def test_a_change_fails_the_self_test(qat, tmp_path, file, before, after):
    shutil.copytree(qat.parent, tmp_path, dirs_exist_ok=True)
    text = (tmp_path / file).read_text()
    cut = re.search(before, text)
    head = cut.group(0) if after.startswith("1") else cut.group(0)[:-1]
    changed = text[: cut.start()] + head + after + text[cut.end() :]
    (tmp_path / file).write_text(changed.replace("[16000]", "[]"))
    assert compiled(tmp_path, "qat.c", "qat_test.c").returncode == 1


def test_the_self_test_passes_and_can_fail_on_a_cortex_m(qat, tmp_path):
    for tool in ("arm-none-eabi-gcc", "qemu-system-arm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    assert subprocess.run([CORTEX_M, qat], capture_output=True).returncode == 0
    shutil.copytree(qat.parent, tmp_path, dirs_exist_ok=True)
    test = tmp_path / "qat_test.c"
    test.write_text(re.sub(r"(expected_3_0\[10\] = {\n    )", r"\g<1>1", test.read_text()))
    assert subprocess.run([CORTEX_M, tmp_path / "qat.c"], capture_output=True).returncode == 3


class Several(nn.Module):
    """Three inputs, one of which nothing reads; two outputs."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 4, 3), nn.Linear(4, 3)

    def forward(self, unread, image, row):
        x = torch.relu(self.first(image)) + row[:, :, None, None]
        return self.last(x.mean((2, 3))), x


def test_several_inputs_and_outputs_are_cross_checked(tmp_path):
    torch.manual_seed(0)
    data = torch.rand(16, 5), torch.rand(16, 2, 6, 6), torch.randn(16, 4)
    quantized = qs.quantize(Several().eval(), [data], data)
    file = qs.export_c(quantized, tmp_path)
    report = qs.cross_check(file, data)
    (check,) = (each for each in report.checks if each.runtime == "c99")
    assert (check.file, check.images, check.rows_equal) == ("model.c", 16, 1.0)
    assert file.form == "c99" and file.size == file.path.stat().st_size


NAMES = ["*/ int extra; /*", "/* begins", "\\", "a\n#error no", "??/"]


@pytest.mark.parametrize("name", NAMES)
def test_whatever_tensors_are_called_it_is_the_same_c(qat, name, tmp_path):
    model = onnx.load(QAT)
    graph = model.graph
    values = [*graph.input, *graph.output, *graph.value_info]
    named = {value.name for value in values}.union(*(node.output for node in graph.node))
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{each}{name}" if each in named else each for each in names]
        node.name += name
    for value in values:
        value.name += name
    onnx.save(model, tmp_path / "named.onnx")
    path = qs.export_c(tmp_path / "named.onnx", tmp_path, "qat").path
    assert compiled(tmp_path, "qat.c", "qat_test.c").returncode == 0
    bare = [re.sub(r"/\*.*?\*/", "", each.read_text(), flags=re.S) for each in (path, qat)]
    assert bare[0] == bare[1]


def test_it_is_a_form_beside_the_onnx_file(tmp_path):
    torch.manual_seed(0)
    data = (torch.rand(8, 5),)
    quantized = qs.quantize(nn.Linear(5, 3).eval(), [data], data)
    file = write_form("c", quantized, tmp_path / "net.onnx", {"model": "none"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.c", "net.h", "net_test.c"]
    assert (
        file.path == tmp_path / "net.c"
        and compiled(tmp_path, "net.c", "net_test.c").returncode == 0
    )


def test_verify_makes_it_of_an_onnx_file(location, tmp_path):
    torch.manual_seed(0)
    data = (torch.rand(16, 5),)
    quantized = qs.quantize(nn.Linear(5, 3).eval(), [data], data)
    for pixels in ("uint8", "float32"):
        path = tmp_path / f"{pixels}.onnx"
        qs.export_onnx(quantized, path, pixels=pixels)
        report = verify(path, location, ["c99"])
        assert report["checks"][0]["file"] == path.name and report["verdict"] == "same"
    images = np.zeros((2, 1, 28, 28), np.uint8)
    reference = Evaluation(np.zeros((2, 10), np.float32), None)
    found = check_runtime("c99", QAT.with_suffix(".fast.onnx"), [images], reference, 0.25)
    assert found.file == "qat.fast.onnx"
    assert "Cast 'image_as_float' has no integer semantics" in found.reason


ROUNDINGS = """
#include <stdint.h>
#include <stdio.h>
{kernels}
int main(void)
{{
    static const int32_t multiplier[1] = {{{m}}};
    static const uint8_t shift[1] = {{{s}}};
    const struct rounding to = {{multiplier, shift, 0, {lift}, {z}, 3, 250}};
    for (int32_t total = -3000; total <= 3000; total++)
        printf("%d ", {call});
    return 0;
}}
"""


@pytest.mark.parametrize(
    ("m", "divisor"), [(1, 16), (3, 8), (6, 2), (5, 4096), (1, 2), (1, 12), (4, 9), (1, 49)]
)
def test_roundings_are_those_of_exact_fractions(m, divisor, tmp_path):
    power = divisor & (divisor - 1) == 0
    names = ("rounding", "rounded" if power else "rounded_quotient")
    call = "rounded(total, 0, &to)" if power else f"rounded_quotient(total, {divisor}, &to)"
    settings = {"m": m, "s": divisor.bit_length() - 1, "lift": 1 << 15, "z": 128, "call": call}
    kernels = "\n".join(map(kernel, names))
    (tmp_path / "try.c").write_text(ROUNDINGS.format(kernels=kernels, **settings))
    found = list(map(int, compiled(tmp_path, "try.c").stdout.split()))
    exact = [round(Fraction(total * m, divisor)) + 128 for total in range(-3000, 3001)]
    assert found == [min(max(each, 3), 250) for each in exact]


def test_tensors_that_are_needed_together_do_not_overlap(tmp_path):
    torch.manual_seed(0)
    data = (torch.rand(8, 3, 8, 8),)
    quantized = qs.quantize(Branching().eval(), [data], data, input_scale=1 / 255)
    path = qs.export_onnx(quantized, tmp_path / "model.onnx", optimize_for=None)[0].path
    program = program_of(path)
    arena = arena_of(program)
    spans = {}
    for node in program.nodes:
        start = int(arena.places[node.output.name].partition("+ ")[2] or 0)
        spans[node.output.name] = range(start, start + node.output.size)
    assert max(span.stop for span in spans.values()) == arena.size
    for step, _ in enumerate(program.nodes):
        later = {tensor.name for node in program.nodes[step:] for tensor in node.inputs}
        made = [node.output for node in program.nodes[: step + 1]]
        needed = [each for each in made if each.name in later or each is made[-1]]
        for a, b in itertools.combinations(needed, 2):
            one, other = spans[a.name], spans[b.name]
            assert one == other or one.stop <= other.start or other.stop <= one.start


class Branching(nn.Module):
    """Tensors that stay while others come and go."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(3, 4, 1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Conv2d(8, 2, 1),
        )

    def forward(self, x):
        kept = torch.relu(self.a(x))
        x = torch.relu(self.b(kept))
        return self.c(torch.cat([kept + self.b(x), x], 1)).flatten(1)


def test_what_has_no_form_in_c_is_refused_by_name(tmp_path):
    examples = torch.rand(8, 5)
    network = nn.Linear(5, 3).eval()
    free = qs.quantize(network, [examples], examples, config=qs.QuantizationConfig(exact=False))
    with pytest.raises(InputError, match="no integers say what the file computes"):
        qs.export_c(free, tmp_path)
    exact = qs.quantize(network, [examples], examples)
    with pytest.raises(InputError, match="'my model' is no name for C"):
        qs.export_c(exact, tmp_path, "my model")
    broken = qs.export_c(exact, tmp_path, "broken").path
    broken.write_text(broken.read_text()[:-3])
    with pytest.raises(InputError, match="the C compiler cannot load or run"):
        RUNTIMES.get("c99")(broken)
    (tmp_path / "other.c").write_text("int x;\n")
    (tmp_path / "other.h").write_text("extern int x;\n")
    with pytest.raises(InputError, match="its header is none of export_c"):
        RUNTIMES.get("c99")(tmp_path / "other.c")
