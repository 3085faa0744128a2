"""A short run of the generator of hostile files, and that it finds what it is for."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
import hostile
from hostile import Tally, check, hunt
from hostile_graphs import Drawn

from qstrategies.certificate import Certificate
from qstrategies.certificate.report import GUARANTEES


def test_certified_files_give_the_same_bits_everywhere(tmp_path):
    tally = Tally()
    hunt(300, 1, tally, tmp_path / "failing.onnx")
    total = tally.kinds.total()
    assert total >= 300 and tally.kinds["no valid file"] < 0.1 * total
    assert tally.kinds["certified"] > 0.15 * total and tally.odd > 10
    assert f"{tally.kinds['certified']:>7}" in str(tally) and "QuantizeLinear" in str(tally)


MERGED = """<ir_version: 10, opset_import: ["" : 19]> hostile (uint8[4] x) => (float[4] y)
<float whole = {1}, float half = {0.5}, float quarter = {0.25}, uint8 zero = {0}, uint8 middle = {128}>
{ a = DequantizeLinear(x, whole, middle)
  b = QuantizeLinear(a, half, middle)
  c = DequantizeLinear(b, half, middle)
  d = QuantizeLinear(c, quarter, zero)
  y = DequantizeLinear(d, quarter, zero) }"""


def test_a_certificate_that_certifies_everything_is_found_out(tmp_path, monkeypatch):
    nothing = Certificate((), dict.fromkeys(GUARANTEES, ()), 0)
    monkeypatch.setattr(hostile, "certify", lambda path: nothing)
    pixels = np.arange(128, 148, 5, np.uint8)
    with pytest.raises(AssertionError, match="certified, but output 0"):
        check(
            Drawn(onnx.parser.parse_model(MERGED), {"x": pixels}, 1),
            tmp_path / "model.onnx",
            Tally(),
        )
