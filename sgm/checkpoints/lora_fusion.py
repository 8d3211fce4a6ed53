"""Fuses a LoRA file into a model's weights (Hu et al. 2021, arXiv 2106.09685).

A file has, for a layer <key>.weight of (out, in): <key>.lora_A.weight (rank, in) and
<key>.lora_B.weight (out, rank), and in its metadata alpha; the layer then is weight + alpha / rank
* B A. Keys are the published ones. numpy only.
"""
import math
from functools import partial

import numpy as np

from sgm.checkpoints.foreign.file_kinds import refuse_lora
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.store import CheckpointError, LazyTensor, View, passthrough

DOWN, UP = ".lora_A.weight", ".lora_B.weight"


def fuse(store, path, strength=1.0):
    """Return a View of a model's TensorStore with the LoRA file at `path` added `strength` times.

    Nothing is computed before a tensor is read; changed tensors are float32. Raises CheckpointError
    when the file is not a LoRA, or belongs to another model.
    """
    lora = open_checkpoint(path)
    layers = {key.removesuffix(DOWN).removesuffix(UP): None for key in lora}
    if not any(layer + ".weight" in store for layer in layers):
        refuse_lora(lora, as_lora=True)
    scale, rows = _alpha(lora) * strength, {key: passthrough(store, key) for key in store}
    for layer in layers:
        down, up, key = layer + DOWN, layer + UP, layer + ".weight"
        if down not in lora or up not in lora:
            raise CheckpointError(f"{lora.path}: {layer}: found no pair of {DOWN[1:]} and {UP[1:]},"
                                  " expected one for every layer; this is not a LoRA of this"
                                  " program")
        if key not in store:
            raise CheckpointError(f"{lora.path}: {layer}: found no such layer in {store.path},"
                                  " expected a LoRA of that model; it was made for"
                                  f" {lora.metadata.get('model', 'another')}")
        (rank, into), (out, ranks) = (_matrix(lora, name) for name in (down, up))
        if (out, into) != store.shape(key) or rank != ranks:
            raise CheckpointError(f"{lora.path}: {layer}: found a change of {(out, into)} of ranks"
                                  f" {rank} and {ranks}, expected {store.shape(key)} as in"
                                  f" {store.path}, of one rank; it is of another model")
        fused = partial(_sum, stores=(store, lora), keys=(key, down, up), scale=scale / rank)
        rows[key] = LazyTensor(((store, key), (lora, down), (lora, up)), fused,
                               f"LoRA of {lora.path.name} fused", "F32", store.shape(key))
    if not layers:
        raise CheckpointError(f"{lora.path}: found no tensors, expected pairs of {DOWN[1:]} and"
                              f" {UP[1:]}; this is not a LoRA")
    metadata = {**store.metadata, "lora": f"{lora.path.name}, {strength:g} times"}
    return View(store.path, store.format, rows, metadata)


def _alpha(lora):
    try:
        alpha = float(lora.metadata["lora_alpha"])
    except (KeyError, ValueError):
        alpha = math.nan
    if not math.isfinite(alpha):
        found = lora.metadata.get("lora_alpha", "nothing")
        raise CheckpointError(f"{lora.path}: found {found[:40]} as lora_alpha in its metadata,"
                              " expected a number; this is not a LoRA of this program")
    return alpha


def _matrix(lora, key):
    shape = lora.shape(key)
    if len(shape) != 2 or 0 in shape:
        raise CheckpointError(f"{lora.path}: {key}: found shape {shape}, expected a matrix; the"
                              " file is damaged")
    return shape


def _sum(_, stores, keys, scale):
    """Return the float32 sum; tensors are read again because raw arrays of BF16 are bits."""
    store, lora = stores
    weight, down, up = store.read(keys[0]), lora.read(keys[1]), lora.read(keys[2])
    product = up.astype(np.float64) @ down.astype(np.float64)
    return (weight.astype(np.float64) + scale * product).astype(np.float32)
