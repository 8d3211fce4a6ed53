"""The visual hull and what is known before any optimization."""
