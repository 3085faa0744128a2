"""Integer graph -> ONNX files: the portable form written directly, other forms by small graph
passes, then metadata."""
