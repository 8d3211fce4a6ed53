"""Writes files of named tensors, safetensors and MindSpore's .ckpt, a slice at a time, whole or not at all. numpy only.

What is written is a `TensorStore`, so that 9 GB go from file to file through a few MB of memory.
"""
import glob
import json
import math
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from sgm.common.errors import os_reason
from sgm.tensorfiles import CKPT_DTYPES, Entry
from sgm.tensorstore import DTYPES, CheckpointError, TensorStore

FLOATS = ("F64", "F32", "F16", "BF16")
SLICE = 4 << 20                                 # elements that are converted and written at a time
CKPT_PIECE = 512 << 20                          # bytes of a message in a .ckpt; MindSpore's own size
_CKPT_NAMES = {name: long for long, name in CKPT_DTYPES.items()}


class Arrays(TensorStore):
    """``{key: numpy array}`` as a TensorStore. Raises CheckpointError naming an element type that cannot be stored."""

    def __init__(self, path, tensors, metadata=None):
        names = {np.dtype(code): name for name, code in DTYPES.items() if name != "BF16"}
        entries = {}
        for key, array in tensors.items():
            # MindSpore's numpy bfloat16 is known by its name only.
            name = "BF16" if array.dtype.name == "bfloat16" else names.get(array.dtype.newbyteorder("<"))
            if name is None:
                raise CheckpointError(f"{path}: {key}: found element type {array.dtype}, expected one of"
                                      f" {', '.join(DTYPES)}; convert it first")
            entries[key] = Entry(name, array.shape, ())
        super().__init__(path, "arrays", entries, {str(key): str(value) for key, value in (metadata or {}).items()})
        self._tensors = tensors

    def raw(self, key):
        array, kind = self._tensors[key], np.dtype(DTYPES[self.dtype(key)])
        return array.view(kind) if self.dtype(key) == "BF16" else array.astype(kind, copy=False)

    def holds(self, array):
        return False

    def prefetch(self, key):
        pass

    def release(self, key):
        pass

    def origin(self, key):
        return [key], ""


def save_safetensors(path, tensors, metadata=None):
    """Write ``{key: numpy array}`` as one safetensors file, tensor after tensor: no second copy is held.

    `metadata`: ``{str: str}``. Raises CheckpointError when the file cannot be written or an array's type cannot be
    stored; `path` never holds half a file.
    """
    store = Arrays(path, tensors, metadata)
    with atomic(path, stored_bytes(store)) as temporary:
        write_safetensors(temporary, store)


@contextmanager
def atomic(path, size=None):
    """A path to write a file or folder to, which becomes `path` when the block ends well, and vanishes when it does not.

    It lies beside `path`, and replaces those that killed processes left there. Raises CheckpointError for an OSError (a
    full disk: `size`, the bytes needed, is named); what was at `path` before is then untouched.
    """
    path = Path(path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if not Path("/proc", left.name.split(".")[-2]).exists():
            _remove(left)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        need = "" if size is None else f", {size / 1e6:.1f} MB needed"
        reason, _, remedy = os_reason(error).partition("; ")
        raise CheckpointError(f"{path}: cannot be written ({reason}{need}); nothing was changed: {remedy}") from None
    finally:
        _remove(temporary)                      # gone already when all went well


def _remove(path):
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def stored_dtype(store, key, dtype=None):
    """The element type under which a tensor is written: `dtype` for floating ones, else its own."""
    found = store.dtype(key)
    return dtype if dtype and found in FLOATS else found


def stored_bytes(store, dtype=None, keys=None):
    """Bytes of the tensors (of `keys`) once written as `dtype`."""
    return sum(_size(store, key, stored_dtype(store, key, dtype)) for key in (store if keys is None else keys))


def _size(store, key, dtype):
    return math.prod(store.shape(key)) * np.dtype(DTYPES[dtype]).itemsize


def write_safetensors(path, store, dtype=None, progress=None, metadata=None):
    """Write all tensors of a TensorStore, floating ones as `dtype` ("F32", "F16", "BF16"; None keeps each).

    `progress(count)` is told bytes as they are written. `metadata` instead of the store's. The bytes are those of the
    safetensors library for the same order of tensors. Raises CheckpointError for a value beyond `dtype`'s range, OSError.
    """
    metadata = store.metadata if metadata is None else metadata
    header = {"__metadata__": metadata} if metadata else {}
    # Wide types first: every tensor then begins at a multiple of its element's size.
    keys = sorted(store, key=lambda key: -np.dtype(DTYPES[stored_dtype(store, key, dtype)]).itemsize)
    at = 0
    for key in keys:
        name = stored_dtype(store, key, dtype)
        header[key] = {"dtype": name, "shape": list(store.shape(key)),
                       "data_offsets": [at, at + _size(store, key, name)]}
        at = header[key]["data_offsets"][1]
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)

    def blocks():
        yield len(text).to_bytes(8, "little") + text
        for key in keys:
            yield from slices(store, key, dtype)
            store.release(key)
    _write(path, blocks(), progress)


def write_ckpt(path, store, dtype=None, progress=None, metadata=None):
    """The same as a MindSpore .ckpt, which `mindspore.load_checkpoint` reads; metadata become its texts."""
    def blocks():
        for name, text in (store.metadata if metadata is None else metadata).items():
            data = text.encode("utf-32-le") or bytes(4)
            yield _message(name, (), "str", len(data)) + data
        for key in store:
            name = stored_dtype(store, key, dtype)
            if store.shape(key) == (0,):        # which is read as a number without axes
                raise CheckpointError(f"{store.path}: {key}: found no elements, expected some; a .ckpt cannot hold it:"
                                      " write safetensors")
            size, space = _size(store, key, name), 0
            for begin, block in _placed(slices(store, key, dtype)):
                if begin == space:              # a new piece; all slices but the last divide it evenly
                    piece = min(CKPT_PIECE, size - begin)
                    space += piece
                    yield _message(key, store.shape(key), _CKPT_NAMES[name], piece)
                yield block
            if not size:
                yield _message(key, store.shape(key), _CKPT_NAMES[name], 0)
            store.release(key)
    _write(path, blocks(), progress)


def _message(key, shape, kind, size):
    """The beginning of a Checkpoint message (see `sgm.tensorfiles`), up to the `size` bytes of content."""
    tensor = b"".join(b"\x08" + _varint(n) for n in shape)
    tensor += _bytes(2, kind.encode()) + b"\x1a" + _varint(size)
    value = _bytes(1, key.encode("utf-8")) + b"\x12" + _varint(len(tensor) + size) + tensor
    return b"\x0a" + _varint(len(value) + size) + value


def _bytes(number, content):
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def _placed(blocks):
    at = 0
    for block in blocks:
        yield at, block
        at += len(block)


def _write(path, blocks, progress):
    with open(path, "wb") as file:
        for block in blocks:
            file.write(block)
            if progress and not isinstance(block, bytes):  # tensors, not headers
                progress(len(block))
        file.flush()
        os.fsync(file.fileno())


def slices(store, key, dtype=None):
    """The bytes of one tensor as they are written, in uint8 arrays; a tensor that stays as it is, is not copied.

    Raises CheckpointError naming a tensor with values beyond the range of `dtype`.
    """
    found, wanted = store.dtype(key), stored_dtype(store, key, dtype)
    store.prefetch(key)
    flat = np.ascontiguousarray(store.raw(key)).reshape(-1)
    for begin in range(0, flat.size, SLICE):
        part = flat[begin:begin + SLICE]
        try:
            yield cast(part, found, wanted).view(np.uint8)
        except OverflowError:
            raise CheckpointError(f"{store.path}: {key}: found values beyond the range of {wanted}, expected smaller"
                                  " ones; keep fp32, or take bf16") from None


def cast(bits, found, wanted):
    """A flat array as it is stored under the type `found` -> the same under `wanted`, rounded to nearest, ties to even.

    Raises OverflowError when a finite number becomes infinite.
    """
    if found == wanted:
        return bits
    numbers = (bits.astype(np.uint32) << 16).view(np.float32) if found == "BF16" else bits
    try:
        with np.errstate(over="raise"):
            if wanted != "BF16":
                return numbers.astype(DTYPES[wanted])
            numbers = numbers.astype(np.float32, copy=False)
    except FloatingPointError:
        raise OverflowError from None
    bits = numbers.view(np.uint32)
    rounded = ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype(np.uint16)
    finite = np.isfinite(numbers)
    if not finite.all():                        # an infinite number stays so, what is no number too
        rounded = np.where(finite, rounded, bits >> 16 | np.isnan(numbers) * np.uint32(0x40)).astype(np.uint16)
    if (finite & (rounded & 0x7FFF == 0x7F80)).any():
        raise OverflowError
    return rounded
