"""A float ONNX file as a PyTorch model: read node by node, and compared with ONNX Runtime."""

from __future__ import annotations

from qstrategies.onnx_model.read import from_onnx as from_onnx
