"""Weights: read, write, identify, convert. No MindSpore but in `loading`."""
