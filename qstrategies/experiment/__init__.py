"""From a configuration to its record, and many of them in one workspace."""
