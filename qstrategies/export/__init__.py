"""Quantized module -> QDQ ONNX file: torch's exporter, then small graph passes, then metadata."""
