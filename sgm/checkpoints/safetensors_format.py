"""The safetensors format: reads and checks headers, writes files as a stream."""
import json
import reprlib

import numpy as np

from sgm.checkpoints.dtypes import DTYPES, MAX_DIMS, Entry, nbytes
from sgm.checkpoints.store import (
    CheckpointError,
    TensorStore,
    slices,
    stored_bytes,
    stored_dtype,
    stored_size,
)
from sgm.common.files import atomic, write_blocks

MAX_HEADER = 100 << 20                          # bytes; the limit of the safetensors format


def safetensors_entries(path, data, size):
    """Return ({key: Entry}, metadata) of the header of a file of `size` bytes, mapped as `data`.

    Everything in it is checked. Raises CheckpointError.
    """
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
        raise bad(f"found a header that is not JSON ({str(error)[:80]}), expected names and"
                  " shapes") from None
    if not isinstance(header, dict):
        raise bad("found a header that is not a mapping, expected names and shapes")
    metadata = header.pop("__metadata__", {})
    texts = isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())
    if not texts:
        raise bad("__metadata__: found other than texts, expected a mapping of texts")
    # Each tensor by itself: type, shape, and as many bytes as they need.
    entries = {}
    for key, info in header.items():
        info = info if isinstance(info, dict) else {}
        dtype, shape, offsets = info.get("dtype"), info.get("shape"), info.get("data_offsets")
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise bad(f"{key}: found element type {_shown(dtype)}, expected one of"
                      f" {', '.join(DTYPES)}",
                      "use the full or half precision file of the model")
        if not _naturals(shape) or (need := nbytes(dtype, shape)) is None:
            raise bad(f"{key}: found shape {_shown(shape)}, expected at most {MAX_DIMS} sizes,"
                      " together below 2^63 bytes")
        if not _naturals(offsets) or len(offsets) != 2:
            raise bad(f"{key}: found data_offsets {_shown(offsets)}, expected [begin, end]")
        begin, end = offsets
        if end - begin != need:
            raise bad(f"{key}: found {str(end - begin)[:60]} bytes, expected {need} for {dtype}"
                      f" {shape}")
        if start + end > size:
            raise bad(f"{key}: found its end at byte {start + end}, expected at most {size}, the"
                      " file's size",
                      "the file is cut off: download it again")
        entries[key] = Entry(dtype, tuple(shape), ((start + begin, start + end),))
    # All together: no gap, no overlap, nothing behind them.
    at, before = start, "the header"
    for key, entry in sorted(entries.items(), key=lambda item: item[1].pieces):
        (begin, end), = entry.pieces
        if begin != at:
            raise bad(f"{key}: found its start at byte {begin}, expected {at}, the end of {before}")
        at, before = end, key
    if at != size:
        raise bad(f"found {size - at} bytes after the last tensor, expected none")
    return entries, metadata


def _shown(value):
    """Return a value from a header as messages show it: short, and never written out whole."""
    return value[:20] if isinstance(value, str) else reprlib.repr(value)[:60]


def _naturals(values):
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


class Arrays(TensorStore):
    """``{key: numpy array}`` as a TensorStore.

    Raises CheckpointError naming an element type that cannot be stored.
    """

    def __init__(self, path, tensors, metadata=None):
        names = {np.dtype(code): name for name, code in DTYPES.items() if name != "BF16"}
        entries = {}
        for key, array in tensors.items():
            # MindSpore's numpy bfloat16 is known by its name only.
            half = array.dtype.name == "bfloat16"
            name = "BF16" if half else names.get(array.dtype.newbyteorder("<"))
            if name is None:
                raise CheckpointError(
                    f"{path}: {key}: found element type {array.dtype}, expected one of"
                    f" {', '.join(DTYPES)}; convert it first")
            entries[key] = Entry(name, array.shape, ())
        metadata = {str(key): str(value) for key, value in (metadata or {}).items()}
        super().__init__(path, "arrays", entries, metadata)
        self._tensors = tensors

    def raw(self, key):
        """Return the tensor as it is stored. Raises KeyError."""
        array, kind = self._tensors[key], np.dtype(DTYPES[self.dtype(key)])
        return array.view(kind) if self.dtype(key) == "BF16" else array.astype(kind, copy=False)

    def holds(self, array):
        """Return False: nothing is mapped."""
        return False

    def prefetch(self, key):
        """Do nothing: the arrays are in memory."""

    def release(self, key):
        """Do nothing: the arrays belong to the caller."""

    def origin(self, key):
        """Return ([key], ""): nothing was done to it."""
        return [key], ""


def save_safetensors(path, tensors, metadata=None):
    """Write ``{key: numpy array}`` as one safetensors file, tensor by tensor, without another copy.

    `metadata`: ``{str: str}``. Raises CheckpointError when an array's type cannot be stored,
    InputError when the file cannot be written; `path` never holds half a file.
    """
    store = Arrays(path, tensors, metadata)
    with atomic(path, stored_bytes(store)) as temporary:
        write_safetensors(temporary, store)


def write_safetensors(path, store, dtype=None, progress=None, metadata=None):
    """Write all tensors of a TensorStore as a safetensors file.

    dtype: of floating tensors ("F32", "F16", "BF16"; None keeps each). `progress(count)` gets the
    bytes as they are written. `metadata` replaces the store's. The file is the one that the
    safetensors library writes for the same order of tensors. Raises CheckpointError for a value
    beyond the range of `dtype`, OSError.
    """
    metadata = store.metadata if metadata is None else metadata
    header = {"__metadata__": metadata} if metadata else {}
    # Wide types first: every tensor then starts at a multiple of its element's size.
    widths = {key: np.dtype(DTYPES[stored_dtype(store, key, dtype)]).itemsize for key in store}
    keys = sorted(store, key=lambda key: -widths[key])
    at = 0
    for key in keys:
        name = stored_dtype(store, key, dtype)
        header[key] = {"dtype": name, "shape": list(store.shape(key)),
                       "data_offsets": [at, at + stored_size(store, key, name)]}
        at = header[key]["data_offsets"][1]
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":"))
    # what is no text, as names of files can be, becomes JSON's \udcff
    text = text.encode("utf-8", "backslashreplace")
    text += b" " * (-len(text) % 8)

    def blocks():
        yield len(text).to_bytes(8, "little") + text
        for key in keys:
            yield from slices(store, key, dtype)
            store.release(key)
    write_blocks(path, blocks(), progress)
