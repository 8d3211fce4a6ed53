"""Converts weights: open and check the source, plan every tensor, write, compare.

Everything that can be known before writing is checked by `plan`; what `write` makes appears whole
or not at all.
"""
import csv
import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Optional

import numpy as np

from sgm.checkpoints.diffusers.reader import open_folder, remedies
from sgm.checkpoints.diffusers.writer import to_parts, write_folder
from sgm.checkpoints.identify import misfit_message, misfit_remedy, misfits_of
from sgm.checkpoints.lora_fusion import fuse
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.mindspore_format import write_ckpt
from sgm.checkpoints.opening import is_diffusers, open_file, open_weights
from sgm.checkpoints.original_keys import is_unused, unused_keys, used_shapes
from sgm.checkpoints.safetensors_format import write_safetensors
from sgm.checkpoints.store import (
    CheckpointError,
    TensorStore,
    slices,
    stored_bytes,
    stored_dtype,
)
from sgm.checkpoints.svd_to_sv3d import convert_conditioning, start_spec
from sgm.common.files import atomic
from sgm.config.model import DTYPE_NAMES, ModelSpec
from sgm.config.model_files import load_spec

SOURCES = ("original", "diffusers", "mindspore")
SUFFIXES = {"mindspore": ".ckpt", "safetensors": ".safetensors", "original": ".safetensors"}
STORED_DTYPES = dict(zip(DTYPE_NAMES, ("F32", "F16", "BF16")))
COLUMNS = ("source", "target", "shape", "dtype", "done")


@dataclass
class Plan:
    """A conversion that was checked and only needs writing."""
    target: Path
    kind: str               # key of SUFFIXES, or "diffusers"
    store: TensorStore      # all tensors to be written or left behind, under the published names
    spec: ModelSpec         # model that is written
    source: ModelSpec       # model that is read
    dtype: Optional[str]    # "F32", "F16", "BF16"; None keeps the type of each tensor

    def __post_init__(self):
        is_folder = self.kind == "diffusers"
        self.parts = to_parts(self.store, self.spec) if is_folder else {"": self.store}

    @property
    def size(self):
        """Return the bytes of tensors that will be written."""
        return sum(stored_bytes(part, self.dtype) for part in self.parts.values())

    @property
    def count(self):
        """Return the number of tensors that will be written."""
        return sum(len(part) for part in self.parts.values())

    @property
    def left(self):
        """Return the keys without a place in the target: unused ones in a diffusers folder."""
        if self.kind != "diffusers":
            return []
        return [key for key in self.store if is_unused(key)]

    @property
    def absent(self):
        """Return the published keys that nothing uses and that the source lacks."""
        if self.kind == "diffusers":
            return []
        return [key for key in unused_keys(self.spec) if key not in self.store]

    def rows(self):
        """Yield a dict of COLUMNS for every tensor written, left behind or absent."""
        def row(*values):
            return dict(zip(COLUMNS, values))

        def shape(view, key):
            return "x".join(map(str, view.shape(key))) or "scalar"

        for part, view in self.parts.items():
            for key in view:
                names, done = view.origin(key)
                found, wanted = view.dtype(key), stored_dtype(view, key, self.dtype)
                dtype = found if found == wanted else f"{found} to {wanted}"
                target = f"{part}/{key}" if part else key
                yield row(" + ".join(names), target, shape(view, key), dtype, done or "copied")
        for key in self.left:
            yield row(key, "", shape(self.store, key), self.store.dtype(key),
                      "left behind: nothing uses it, diffusers has no place for it")
        for key in self.absent:
            yield row("", key, "", "", "absent: nothing uses it")


def plan(source, target, kind, source_kind="auto", config=None, base=None, dtype=None, surgery=None,
         lora=None, ema=False):
    """Return the Plan of a conversion of `source` into `target`, files or folders.

    Only names and shapes are read.

    kind: "mindspore", "safetensors", "original" or "diffusers"; source_kind: one of SOURCES, or
    "auto". config: a model's name or YAML file; None identifies it. base: a file that gives what
    the source lacks. dtype: one of DTYPE_NAMES. surgery: name of the model whose fine-tuning is to
    start from the source. lora: a file of train.py that is fused into the source's weights, those
    it changes then being float32 unless `dtype` says otherwise. ema: take the moving average of the
    weights. Raises CheckpointError, ConfigError, one line each.
    """
    source, target = Path(source), Path(target)
    sources = [path for path in (source, base, lora) if path]
    check_target(target, sources, SUFFIXES.get(kind, ""), f"for --to {kind}")
    wanted = load_spec(config) if config else None
    store, old = _open(source, source_kind, wanted, open_file(base, wanted) if base else None, ema)
    spec = old
    if lora:
        store = fuse(store, lora)
    if surgery:
        spec = start_spec(old, surgery)
        store = convert_conditioning(store, old, spec)
    made = Plan(target, kind, store, spec, old, STORED_DTYPES[dtype] if dtype else None)
    free = shutil.disk_usage(target.absolute().parent).free
    if made.size > free:
        raise CheckpointError(f"{target}: found {free / 1e9:.2f} GB free, expected"
                              f" {made.size / 1e9:.2f} GB; free space, or write to another disk")
    return made


def _open(source, source_kind, spec, base, ema):
    """Open the source of a conversion. Return its TensorStore and its ModelSpec, checked."""
    if is_diffusers(source):
        if source_kind not in ("auto", "diffusers"):
            raise CheckpointError(f"{source}: found a folder, expected a file for --from"
                                  f" {source_kind}; use --from diffusers")
        return open_weights(source, spec, base, ema)
    kinds = {"original": "a .safetensors file", "diffusers": "a diffusers folder"}
    expected = kinds.get(source_kind)
    store = open_file(source, spec, ema)
    if expected and (source_kind, store.format) != ("original", "safetensors"):
        raise CheckpointError(f"{source}: found a {store.format} file, expected {expected} for"
                              f" --from {source_kind}; leave out --from")
    store, spec = open_weights(store, spec, base)
    missing, misshapen, extra, _ = misfits_of(store, used_shapes(spec))
    if missing or misshapen or extra:
        raise CheckpointError(f"{source}: does not fit {spec.name}:"
                              f" {misfit_message(missing, misshapen, extra)};"
                              f" {misfit_remedy(missing, misshapen, extra, *remedies())}")
    return store, spec


def check_target(target, others, suffix="", why=""):
    """Raise CheckpointError for a path that cannot be written, or that is one of `others`.

    These are read. suffix: the ending that the file must have; "" for a folder. why: words after it
    in the message.
    """
    target = Path(target)
    if suffix and target.suffix != suffix:
        raise CheckpointError(f"{target}: found the ending {target.suffix or 'of a folder'},"
                              f" expected {suffix} {why}; rename it")
    if not suffix and target.suffix in SUFFIXES.values():
        raise CheckpointError(f"{target}: found the name of a file, expected that of a folder"
                              f" {why}; rename it")
    if os.path.realpath(target) in map(os.path.realpath, others):
        raise CheckpointError(f"{target}: found the path of what is read, expected another; a"
                              " source is never written over")
    if not suffix and target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise CheckpointError(f"{target}: exists, expected a new folder; remove it or give another"
                              " path")
    if suffix and target.is_dir():
        raise CheckpointError(f"{target}: found a folder, expected a file {why}; give another path")
    if not target.absolute().parent.is_dir():
        raise CheckpointError(f"{target}: found no folder {target.parent}, expected one to write"
                              " into; make it first")


def write(made, verify=False, progress=None):
    """Carry out a Plan. `progress(what, count)` gets bytes written ("write"), compared ("compare").

    verify: compare every tensor with the source before the target appears. Raises CheckpointError;
    the target is then not there, or as it was.
    """
    tell = progress or (lambda what, count: None)
    writing = partial(tell, "write")
    with atomic(made.target, made.size) as temporary:
        if made.kind == "diffusers":
            write_folder(temporary, made.parts, made.spec, made.dtype, writing)
        else:
            writer = write_ckpt if made.kind == "mindspore" else write_safetensors
            writer(temporary, made.store, made.dtype, writing)
        if verify:
            _compare(made, temporary, partial(tell, "compare"))


def _compare(made, written, progress):
    """Read everything back under the published names, a diffusers folder by its own rules."""
    if made.kind == "diffusers":
        found = open_folder(written, made.spec)[0]
    else:
        found = open_checkpoint(written)
    left = set(made.left)
    keys = [key for key in made.store if key not in left]
    lost = [key for key in keys if key not in found]
    if lost:
        raise CheckpointError(f"{made.target}: {lost[0]}: not found on reading it back; nothing was"
                              " kept")
    for key in keys:
        at, raw = 0, found.raw(key)
        read = np.ascontiguousarray(raw).reshape(-1).view(np.uint8)
        wanted = made.store.shape(key), stored_dtype(made.store, key, made.dtype)
        same = (found.shape(key), found.dtype(key)) == wanted
        for expected in slices(made.store, key, made.dtype):
            same = same and np.array_equal(read[at:at + expected.size], expected)
            at += expected.size
        if not same:
            raise CheckpointError(f"{made.target}: {key}: found other values on reading it back,"
                                  " expected those of the source; nothing was kept: check the disk")
        found.release(key)
        made.store.release(key)
        progress(at)


def write_report(made, path):
    """Write the Plan's rows as a CSV file. Raises InputError."""
    with atomic(path) as temporary, open(
            temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(made.rows())
