"""Reads files of named tensors, safetensors and MindSpore's .ckpt, as one kind of mapping. numpy only.

Both are read through a private memory map: a tensor is a view of the file until something writes to it, so weights
take no memory that the kernel cannot take back, and opening a 9 GB file costs nothing. Neither format can run code.
Files come from anywhere, hence every size and offset is checked before it is used. `sgm.tensorwriter` writes them.
"""
import json
import mmap
import os
import reprlib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sgm.tensorstore import DTYPES, CheckpointError, TensorStore

MAX_HEADER = 100 << 20                          # bytes; the limit of the safetensors format
MAX_DIMS = 32                                   # numpy's limit
CKPT_DTYPES = {"Float64": "F64", "Float32": "F32", "Float16": "F16", "BFloat16": "BF16", "Int64": "I64",
               "Int32": "I32", "Int16": "I16", "Int8": "I8", "UInt64": "U64", "UInt32": "U32", "UInt16": "U16",
               "UInt8": "U8", "Bool": "BOOL"}
# MAP_NORESERVE, which Python names from 3.13 on (Linux's value): without it the kernel refuses to map a file privately
# that is larger than its memory.
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
_POPULATE_READ = 22                             # Linux's MADV_POPULATE_READ, from 5.14 on; Python does not name it


class Entry(NamedTuple):
    """Where a tensor stands: element type, shape, and its pieces as (begin, end) bytes of the file."""
    dtype: str
    shape: tuple
    pieces: tuple


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
    reader = _safetensors_entries if format == "safetensors" else _ckpt_entries
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


# --- safetensors -----------------------------------------------------------------------------------------------

def _safetensors_entries(path, data, size):
    start = 8 + int.from_bytes(data[:8], "little")

    def bad(what, remedy="the file is damaged: download it again"):
        return CheckpointError(f"{path}: {what}; {remedy}")

    def unique(pairs):
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    try:
        header = json.loads(data[8:start].decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise bad(f"found a header that is not JSON ({str(error)[:80]}), expected names and shapes"
                  ) from None
    if not isinstance(header, dict):
        raise bad("found a header that is not a mapping, expected names and shapes")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise bad("__metadata__: found other than texts, expected a mapping of texts")
    entries = {}
    for key, info in header.items():
        info = info if isinstance(info, dict) else {}
        dtype, shape, offsets = info.get("dtype"), info.get("shape"), info.get("data_offsets")
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise bad(f"{key}: found element type {_shown(dtype)}, expected one of {', '.join(DTYPES)}",
                      "use the full or half precision file of the model")
        if not _naturals(shape) or (need := _nbytes(dtype, shape)) is None:
            raise bad(f"{key}: found shape {_shown(shape)}, expected at most {MAX_DIMS} sizes, together"
                      " below 2^63 bytes")
        if not _naturals(offsets) or len(offsets) != 2:
            raise bad(f"{key}: found data_offsets {_shown(offsets)}, expected [begin, end]")
        begin, end = offsets
        if end - begin != need:
            raise bad(f"{key}: found {str(end - begin)[:60]} bytes, expected {need} for {dtype} {shape}")
        if start + end > size:
            raise bad(f"{key}: found its end at byte {start + end}, expected at most {size}, the file's size",
                      "the file is cut off: download it again")
        entries[key] = Entry(dtype, tuple(shape), ((start + begin, start + end),))
    at, before = start, "the header"
    for key, entry in sorted(entries.items(), key=lambda item: item[1].pieces):
        (begin, end), = entry.pieces
        if begin != at:
            raise bad(f"{key}: begins at byte {begin}, expected {at}, the end of {before}")
        at, before = end, key
    if at != size:
        raise bad(f"found {size - at} bytes after the last tensor, expected none")
    return entries, metadata


def _shown(value):
    """A value from a header as messages show it: short, and never written out whole."""
    return value[:20] if isinstance(value, str) else reprlib.repr(value)[:60]


def _naturals(values):
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _nbytes(dtype, shape):
    """Bytes of a tensor, or None if numpy has no array of that shape, not even an empty one."""
    size = np.dtype(DTYPES[dtype]).itemsize
    for length in shape:
        size *= max(length, 1)
        if size >= 2 ** 63:                     # at once: the product of a long list would take for ever
            return None
    return None if len(shape) > MAX_DIMS else 0 if 0 in shape else size


# --- MindSpore .ckpt: protobuf messages Checkpoint{Value value = 1}, Value{tag = 1, TensorProto tensor = 2},
# TensorProto{int64 dims = 1, string tensor_type = 2, bytes tensor_content = 3} -------------------------------------

def _ckpt_entries(path, data, size):
    """Walks the file by its lengths; MindSpore's own reader holds the whole file twice."""
    def bad(what, remedy="the file is cut off, encrypted or damaged: save or download it again"):
        return CheckpointError(f"{path}: {what}; {remedy}")

    if size >= 17 and data[size - 17:size - 10] == b"crc_num":  # written by save_checkpoint(crc_check=True)
        size -= 17
    entries, metadata, last = {}, {}, None
    try:
        for _, begin, end in _fields(data, 0, size, {1: 2}):
            value = {number: (b, e) for number, b, e in _fields(data, begin, end, {1: 2, 2: 2})}
            key = data[slice(*value[1])].decode("utf-8")
            shape, kind, content = [], "", (0, 0)
            for number, b, e in _fields(data, *value[2], {1: 0, 2: 2, 3: 2}):
                if number == 1:
                    shape.append(b)
                elif number == 2:
                    kind = data[b:e].decode("utf-8")
                else:
                    content = (b, e)
            if kind == "str":
                metadata[key] = data[slice(*content)].decode("utf-32-le").rstrip("\0")
                continue
            if kind not in CKPT_DTYPES:
                raise bad(f"{key}: found element type {kind[:20]!r}, expected one of {', '.join(CKPT_DTYPES)}")
            new = Entry(CKPT_DTYPES[kind], () if shape == [0] else tuple(shape), (content,))
            if key == last and entries[key][:2] == new[:2]:  # a large tensor is saved in pieces
                new = new._replace(pieces=entries[key].pieces + new.pieces)
            elif key in entries:
                raise bad(f"{key}: found twice, expected once")
            entries[key], last = new, key
    except (ValueError, KeyError, IndexError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise bad("found no MindSpore checkpoint (its messages do not add up), expected names and tensors") from None
    for key, entry in entries.items():
        found = sum(end - begin for begin, end in entry.pieces)
        need = _nbytes(entry.dtype, entry.shape)
        if found != need:
            wanted = f"at most {MAX_DIMS} sizes, together below 2^63," if need is None else need
            raise bad(f"{key}: found {found} bytes, expected {wanted} for {entry.dtype} {str(list(entry.shape))[:60]}")
    if not entries:
        raise bad("found no tensors, expected weights")
    return entries, metadata


def _fields(data, at, end, known):
    """(number, begin, end) of the length-delimited fields in a protobuf message, (number, value, None) of integers.

    known: {number: wire type}, 2 for what is length-delimited and 0 for integers.
    """
    while at < end:
        tag, at = _varint(data, at, end)
        value, at = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if known.get(number) != wire or (wire == 2 and value > end - at):
            raise ValueError("not a checkpoint message")
        yield (number, at, at + value) if wire == 2 else (number, value, None)
        at += value if wire == 2 else 0


def _varint(data, at, end):
    value = 0
    for shift in range(0, 64, 7):
        if at >= end:
            raise ValueError("cut off")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("an endless number")
