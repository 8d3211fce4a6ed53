"""Reads files of named tensors, safetensors and MindSpore's .ckpt, as one kind of mapping. numpy only.

Both are read through a private memory map: a tensor is a view of the file until something writes to it, so weights
take no memory that the kernel cannot take back, and opening a 9 GB file costs nothing. Neither format can run code.
Files come from anywhere, hence every size and offset is checked before it is used. `sgm.checkpoints.safetensors_format` writes them.
"""
import mmap
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from sgm.checkpoints.dtypes import DTYPES
from sgm.checkpoints.mindspore_format import ckpt_entries
from sgm.checkpoints.safetensors_format import MAX_HEADER, safetensors_entries
from sgm.checkpoints.store import CheckpointError, TensorStore

# MAP_NORESERVE, which Python names from 3.13 on (Linux's value): without it the kernel refuses to map a file privately
# that is larger than its memory.
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
_POPULATE_READ = 22                             # Linux's MADV_POPULATE_READ, from 5.14 on; Python does not name it


class Checkpoint(TensorStore):
    """The tensors of one memory-mapped file, of format "safetensors" or "ckpt". Made by `open_checkpoint`."""

    def __init__(self, path, format, entries, metadata, mapped):
        super().__init__(path, format, entries, metadata)
        self._mapped = mapped
        self._data = np.frombuffer(mapped, np.uint8)

    def raw(self, key):
        """The tensor: a view of the map where that is possible, else a copy (data that is misaligned or in pieces).
        Writing into a view changes this process's copy only, never the file."""
        entry = self._entries[key]
        pieces = [self._data[begin:end] for begin, end in entry.pieces]
        raw = pieces[0] if len(pieces) == 1 else np.concatenate(pieces) if pieces else np.empty(0, np.uint8)
        kind = np.dtype(DTYPES[entry.dtype])
        if raw.ctypes.data % kind.alignment:    # some writers do not pad the header
            raw = raw.copy()
        return raw.view(kind).reshape(entry.shape)

    def holds(self, array):
        return np.may_share_memory(array, self._data)

    def prefetch(self, key):
        for begin, end in self._entries[key].pieces:
            first = begin // mmap.PAGESIZE * mmap.PAGESIZE
            if end > begin:
                with suppress(OSError):         # an older kernel
                    self._mapped.madvise(_POPULATE_READ, first, end - first)

    def release(self, key):
        for begin, end in self._entries[key].pieces:
            first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE  # whole pages only: the neighbours keep theirs
            length = end // mmap.PAGESIZE * mmap.PAGESIZE - first
            if length > 0:
                self._mapped.madvise(mmap.MADV_DONTNEED, first, length)

    def origin(self, key):
        return [key], ""


def open_checkpoint(path):
    """Open a safetensors file or a MindSpore .ckpt, told apart by their content. Raises CheckpointError."""
    path = Path(path)
    if path.is_dir():
        diffusers = (path / "model_index.json").exists() or (path / "unet").is_dir()
        found, remedy = ("a diffusers folder", f"make one of it: tools/convert.py {path} weights.safetensors --to"
                         " safetensors") if diffusers else ("a folder", "name the file in it")
        raise CheckpointError(f"{path}: found {found}, expected one file; {remedy}")
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(16)
            if not head:
                raise CheckpointError(f"{path}: found an empty file, expected weights; download it again")
            format = _format(path, head, size)
            mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE | _NORESERVE,
                               prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); expected a .safetensors or .ckpt file"
                              ) from None
    reader = safetensors_entries if format == "safetensors" else ckpt_entries
    entries, metadata = reader(path, mapped, size)
    return Checkpoint(path, format, entries, metadata, mapped)


def _format(path, head, size):
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06") or head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        raise CheckpointError(f"{path}: found a pickle (a PyTorch .ckpt, .pt or .bin), which can run code when opened, "
                              "expected safetensors or a MindSpore .ckpt; use the model's .safetensors file")
    if head == b"version https://":             # what a clone without git-lfs has in place of a large file
        raise CheckpointError(f"{path}: found a pointer of Git LFS, expected the weights themselves; git lfs pull, or"
                              " download the file")
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        if size < 10 or length < 2 or length > size - 8 or length > MAX_HEADER:
            raise CheckpointError(f"{path}: found a header of {length} bytes in a file of {size}, expected at most"
                                  f" {min(size - 8, MAX_HEADER)}; the file is cut off or no safetensors file: download"
                                  " it again")
        return "safetensors"
    if head[:1] == b"\n":                       # protobuf: field 1, length-delimited
        return "ckpt"
    raise CheckpointError(f"{path}: found neither safetensors nor a MindSpore .ckpt (begins with {head[:8]!r}),"
                          " expected one of them; use the model's .safetensors file")
