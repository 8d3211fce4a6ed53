"""Loads weights into a network, naming every mismatch; computes the hash of a file.

Parameter names are the published keys, so a published file is loaded as it is and our own files
have its layout.
"""
import hashlib
import logging
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor

from sgm.checkpoints.identify import check_fit
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.safetensors_format import save_safetensors
from sgm.checkpoints.store import CheckpointError, TensorStore
from sgm.common.files import check_file

__all__ = ["CheckpointError", "Report", "assign_weights", "check_weights", "file_hash",
           "load_weights", "open_checkpoint", "save_safetensors"]

log = logging.getLogger("sgm")


def _opened(checkpoint):
    return checkpoint if isinstance(checkpoint, TensorStore) else open_checkpoint(checkpoint)


@dataclass
class Report:
    """The result of `load_weights`; its text is one line."""
    path: str
    format: str
    loaded: int = 0
    nbytes: int = 0                             # size of the loaded parameters
    converted: Counter = field(default_factory=Counter)  # "F16 to Float32" -> tensors
    unused: list = field(default_factory=list)  # keys passed over because nothing uses them

    def __str__(self):
        parts = [f"{self.path}: {self.loaded} tensors, {self.nbytes / 1e9:.2f} GB"]
        parts += [f"{count} converted from {kind}" for kind, count in self.converted.items()]
        if self.unused:
            parts.append(f"{len(self.unused)} unused keys passed over")
        return ", ".join(parts)


def check_weights(cell, checkpoint, prefix=""):
    """Raise CheckpointError unless `checkpoint` has exactly what `load_weights` would read.

    checkpoint: an open TensorStore or a path. Return the keys passed over because nothing uses
    them.
    """
    shapes = {key: tuple(parameter.shape) for key, parameter in cell.parameters_dict().items()}
    return check_fit(_opened(checkpoint), shapes, prefix)


def load_weights(cell, checkpoint, dtype=None, prefix=""):
    """Give every parameter of `cell` (a mindspore Cell) the tensor of its name. Return a Report.

    `checkpoint`: a path or an open TensorStore. `dtype`: the mindspore float type that the
    parameters take; None leaves each as it is. `prefix`: only the file's keys that begin with it
    must have a parameter (to load a part of a model). A tensor that already has its parameter's
    type stays in the file, mapped, and takes no memory of its own: the file must then outlive the
    network. Raises CheckpointError, before anything is changed, when a parameter has no tensor, a
    tensor no parameter and a use, or a shape differs; and on the way when a value is beyond the
    range of `dtype`.
    """
    checkpoint = _opened(checkpoint)
    return assign_weights(cell, checkpoint, check_weights(cell, checkpoint, prefix), dtype)


def assign_weights(cell, checkpoint, unused=(), dtype=None):
    """Do what `load_weights` does with an open TensorStore that was found to fit.

    unused: its keys that nothing uses.
    """
    report = Report(str(checkpoint.path), checkpoint.format, unused=list(unused))
    for key, parameter in cell.parameters_dict().items():
        wanted = dtype or parameter.dtype
        parameter.assign_value(_tensor(checkpoint, key, wanted, report))
        report.loaded += 1
        report.nbytes += parameter.nbytes
    log.debug("%s", report)
    return report


def _tensor(checkpoint, key, dtype, report):
    array = checkpoint.read(key)
    kind = np.dtype("bfloat16") if dtype == ms.bfloat16 else np.dtype(ms.dtype_to_nptype(dtype))
    if checkpoint.dtype(key) == "BF16" or array.dtype != kind:
        try:
            with np.errstate(over="raise"):
                array = array.astype(kind, copy=False)
        except FloatingPointError:
            raise CheckpointError(f"{checkpoint.path}: {key}: found values beyond the range of"
                                  f" {kind}, expected at most {np.finfo(kind).max:.0f}; load it as"
                                  " float32") from None
        report.converted[f"{checkpoint.dtype(key)} to {dtype}"] += 1
    if not checkpoint.holds(array):
        checkpoint.release(key)
    return Tensor.from_numpy(array)


def file_hash(path, whole=1 << 30, blocks=64):
    """Return a hash of a file's content with its scheme: ``sha256:…`` up to `whole` bytes.

    Of larger ones ``sha256-size-64MiB:…``: of the size and `blocks` MiB spread evenly from the
    first (a safetensors header) to the last: a fraction of a second instead of a minute. Of a
    folder ``sha256-files:…``: of the names and hashes of its weights. Raises CheckpointError when
    it cannot be read.
    """
    check_file(path, CheckpointError)
    digest, mib = hashlib.sha256(), 1 << 20
    if Path(path).is_dir():
        for file in sorted(Path(path).rglob("*.safetensors")):
            digest.update(str(file.relative_to(path)).encode("utf-8", "surrogateescape"))
            digest.update(f" {file_hash(file, whole, blocks)}\n".encode())
        return f"sha256-files:{digest.hexdigest()}"
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= whole:
                while block := file.read(mib):
                    digest.update(block)
                return f"sha256:{digest.hexdigest()}"
            digest.update(str(size).encode())
            for block in range(blocks):
                file.seek((size - mib) * block // (blocks - 1))
                digest.update(file.read(mib))
            return f"sha256-size-{blocks}MiB:{digest.hexdigest()}"
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); expected a"
                              " file") from None
