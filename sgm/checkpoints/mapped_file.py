"""Opens safetensors files, MindSpore's .ckpt and PyTorch's zip form as one kind of TensorStore.

Needs numpy only. All are read through a private memory map: a tensor is a view of the file until
something writes to it, so weights take no memory that the kernel cannot take back, and opening a
9 GB file costs nothing. None can run code: of PyTorch's, `foreign.pytorch_zip` follows what dicts
and tensors need only. Files come from anywhere, hence every size and offset is checked before it is
used. `safetensors_format` and `mindspore_format` parse and write the others.
"""
import mmap
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from sgm.checkpoints.dtypes import DTYPES
from sgm.checkpoints.foreign.pytorch_zip import pytorch_entries
from sgm.checkpoints.mindspore_format import ckpt_entries
from sgm.checkpoints.safetensors_format import MAX_HEADER, safetensors_entries
from sgm.checkpoints.store import CheckpointError, TensorStore
from sgm.common.files import check_file

# The first bytes of files that are taken for weights, what they are, and what would help.
_OTHERS = ((b"GGUF", "a GGUF file of quantized weights", "use the model's .safetensors file"),
           (b"\x89HDF", "an HDF5 file of Keras", "use the model's .safetensors file"),
           (b"\x93NUMPY", "a single numpy array", "use the model's .safetensors file"),
           (b"<!DOCTYPE", "a web page, no safetensors file", "download it again, logged in"),
           (b"<html", "a web page, no safetensors file", "download it again, logged in"))
# MAP_NORESERVE, which Python names from 3.13 on (Linux's value): without it the kernel does not map
# a file privately that is larger than the machine's memory.
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
_POPULATE_READ = 22     # Linux's MADV_POPULATE_READ, from 5.14 on; Python does not name it


class Checkpoint(TensorStore):
    """The tensors of one memory-mapped file: what `open_checkpoint` returns."""

    def __init__(self, path, format, entries, metadata, mapped):
        super().__init__(path, format, entries, metadata)
        self._mapped = mapped
        self._data = np.frombuffer(mapped, np.uint8)

    def raw(self, key):
        """Return the tensor as it is stored. Raises KeyError.

        It is a view of the map where possible, else a copy (of data that is misaligned or in
        pieces). Writing into a view changes this process's copy only, never the file.
        """
        entry = self._entries[key]
        pieces = [self._data[start:end] for start, end in entry.pieces]
        if len(pieces) == 1:
            raw = pieces[0]
        else:
            raw = np.concatenate(pieces) if pieces else np.empty(0, np.uint8)
        kind = np.dtype(DTYPES[entry.dtype])
        if raw.ctypes.data % kind.alignment:    # some writers do not pad the header
            raw = raw.copy()
        if entry.strides is not None:
            steps = [step * kind.itemsize for step in entry.strides]
            return np.lib.stride_tricks.as_strided(raw.view(kind), entry.shape, steps).copy()
        return raw.view(kind).reshape(entry.shape)

    def holds(self, array):
        """Return whether an array is a view of the map."""
        return np.may_share_memory(array, self._data)

    def prefetch(self, key):
        """Read a tensor's pages at once, where the kernel can."""
        for start, end in self._entries[key].pieces:
            first = start // mmap.PAGESIZE * mmap.PAGESIZE
            if end > start:
                with suppress(OSError):         # an older kernel
                    self._mapped.madvise(_POPULATE_READ, first, end - first)

    def release(self, key):
        """Give back a tensor's pages."""
        for start, end in self._entries[key].pieces:
            # Whole pages only: the neighbors keep theirs.
            first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
            length = end // mmap.PAGESIZE * mmap.PAGESIZE - first
            if length > 0:
                self._mapped.madvise(mmap.MADV_DONTNEED, first, length)

    def origin(self, key):
        """Return ([key], ""): it is in the file, and nothing was done to it."""
        return [key], ""


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a safetensors file, a MindSpore .ckpt or a PyTorch .ckpt, .pt or .bin as a Checkpoint.

    They are distinguished by content. Raises CheckpointError.
    """
    path = Path(path)
    check_file(path, CheckpointError)
    if path.is_dir():
        found, remedy = "a folder", "name the file in it"
        if (path / "model_index.json").exists() or (path / "unet").is_dir():
            found = "a diffusers folder"
            remedy = f"make one of it: tools/convert.py {path} weights.safetensors --to safetensors"
        raise CheckpointError(f"{path}: found {found}, expected one file; {remedy}")
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(16)
            if not head:
                raise CheckpointError(f"{path}: found an empty file, expected weights; download it"
                                      " again")
            format = _format(path, head, size)
            mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE | _NORESERVE,
                               prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); expected a .safetensors"
                              " or .ckpt file") from None
    reader = {"safetensors": safetensors_entries, "ckpt": ckpt_entries,
              "pytorch": pytorch_entries}[format]
    entries, metadata = reader(path, mapped, size)
    return Checkpoint(path, format, entries, metadata, mapped)


def _format(path, head, size):
    """Return "safetensors", "ckpt" or "pytorch" from the first 16 bytes of a file.

    Raises CheckpointError.
    """
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "pytorch"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        raise CheckpointError(
            f"{path}: found a pickle (of PyTorch before 1.6, or another program), which can run"
            " code when opened, expected safetensors, a MindSpore .ckpt or the zip form of"
            " torch.save; use the model's .safetensors file, or make one where PyTorch is:"
            " safetensors.torch.save_file(torch.load(FILE, weights_only=True)['state_dict'],"
            " 'model.safetensors')")
    for magic, what, remedy in _OTHERS:
        if head[:len(magic)].lower() == magic.lower():
            raise CheckpointError(f"{path}: found {what}, expected safetensors or a MindSpore"
                                  f" .ckpt; {remedy}")
    if head == b"version https://":     # what a clone without git-lfs has in place of a large file
        raise CheckpointError(f"{path}: found a pointer of Git LFS, expected the weights"
                              " themselves; git lfs pull, or download the file")
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        if size < 10 or length < 2 or length > size - 8 or length > MAX_HEADER:
            raise CheckpointError(
                f"{path}: found a header of {length} bytes in a file of {size}, expected at most"
                f" {min(size - 8, MAX_HEADER)}; the file is cut off or no safetensors file:"
                " download it again")
        return "safetensors"
    if head[:1] == b"\n":                       # protobuf: field 1, length-delimited
        return "ckpt"
    raise CheckpointError(
        f"{path}: found neither safetensors nor a MindSpore .ckpt (it starts with {head[:8]!r}),"
        " expected one of them, or a file of torch.save; use the model's .safetensors file")
