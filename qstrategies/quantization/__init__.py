"""Everything that touches torch.ao.quantization."""
