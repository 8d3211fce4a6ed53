"""Weights as other programs save them: their names, and what a file is that is no model."""
