"""Rendering on the host for training and evaluation data: exact cameras, no device, no gradient."""
