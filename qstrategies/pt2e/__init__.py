"""What torchao's PT2E quantized, on the exact grid."""

from __future__ import annotations

from qstrategies.pt2e.convert import from_pt2e as from_pt2e
