"""What a file computes, integer by integer, for others to check: see docs/specification.md."""
