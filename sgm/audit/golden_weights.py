"""Weights of the goldens as functions of their keys: keys and shapes are enough for a checkpoint.

The values come from numpy's frozen legacy stream, seeded with crc32 of the key: they are the same
everywhere. Nothing is zero, also where the original starts from zeros: a missing layer would show.
"""
import zlib
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).resolve().parent / "golden"     # goldens that tools/check.py needs


def stream(key):
    """Return the random stream of a key."""
    return np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF)


def rand(key, shape):
    """Return standard normal float32 numbers of a key."""
    return stream(key).standard_normal(tuple(shape)).astype(np.float32)


def uniform(key, shape):
    """Return uniform float32 numbers in [0, 1) of a key."""
    return stream(key).random_sample(tuple(shape)).astype(np.float32)


def init_weight(key, shape):
    """Return the float32 value of the parameter `key`, scaled as its kind of layer needs."""
    x, leaf = rand(key, shape), key.rpartition(".")[2]
    if leaf == "logit_scale":
        return np.full(shape, 2.6593, np.float32)
    if leaf == "mix_factor":
        return np.float32(0.8) * x
    table = key.endswith("token_embedding.weight")
    if leaf in ("class_embedding", "positional_embedding") or table:
        return np.float32(0.3) * x
    if leaf in ("proj", "text_projection"):     # (in, out): used as x @ proj
        return x / np.sqrt(np.float32(shape[0]))
    if len(shape) >= 2:                         # (out, in, *kernel)
        return x / np.sqrt(np.float32(np.prod(shape[1:])))
    if leaf == "weight":                        # gain of a norm
        return 1 + np.float32(0.2) * x
    return np.float32(0.1) * x
