"""What an int8 ONNX file guarantees, proven from the file alone: see docs/exactness.md."""

from __future__ import annotations

from pathlib import Path

from qstrategies.arguments import public
from qstrategies.certificate.report import Certificate
from qstrategies.certificate.walk import certify_model
from qstrategies.onnx_file import load_checked

__all__ = ["Certificate", "certify", "certify_model"]


@public
def certify(path: Path | str) -> Certificate:
    """The certificate of the ONNX file ``path``; raises ``InputError`` for a broken file."""
    return certify_model(load_checked(Path(path)))
