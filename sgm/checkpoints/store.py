"""Named tensors as mappings from which one is read at a time. Needs numpy only."""
import math
from pathlib import Path
from typing import Callable, NamedTuple, Optional

import numpy as np

from sgm.checkpoints.dtypes import DTYPES, FLOATS, cast
from sgm.common.errors import InputError

SLICE = 4 << 20                 # elements that are converted and written at a time


class CheckpointError(InputError):
    """Weights that cannot be used: one line with file, key, found, expected, and the remedy."""


class TensorStore:
    """A read-only mapping from key to tensor, of which subclasses say where it is.

    Nothing is read before `read` or `raw`. Iteration (in the file's order), ``in`` and ``len`` are
    a mapping's; `path` (a Path) and `format` (str) are for messages, `metadata` is ``{str: str}``.
    """

    def __init__(self, path, format, entries, metadata):
        self.path = Path(path)
        self.format = format
        self.metadata = metadata
        self._entries = entries                 # {key: anything with .dtype and .shape}

    def __iter__(self):
        return iter(self._entries)

    def __len__(self):
        return len(self._entries)

    def __contains__(self, key):
        return key in self._entries

    def shape(self, key):
        """Return the shape of a tensor, a tuple. Raises KeyError."""
        return self._entries[key].shape

    def dtype(self, key):
        """Return the element type as safetensors names it: "F32", "BF16", ... Raises KeyError."""
        return self._entries[key].dtype

    def read(self, key):
        """Return the tensor as numbers: `raw`, but BF16 becomes float32 (a copy)."""
        array = self.raw(key)
        if self.dtype(key) == "BF16":
            bits = array.reshape(-1).astype(np.uint32) << 16
            array = bits.view(np.float32).reshape(array.shape)
        return array

    def raw(self, key):
        """Return the tensor as it is stored, BF16 as its bits in uint16. Raises KeyError."""
        raise NotImplementedError

    def holds(self, array):
        """Return whether an array is a view of a mapped file."""
        raise NotImplementedError

    def prefetch(self, key):
        """Read a tensor's pages at once, not one by one when they are touched: a hint."""
        raise NotImplementedError

    def release(self, key):
        """Give back the pages of a copied tensor; what was written to its views is lost."""
        raise NotImplementedError

    def origin(self, key):
        """Return (names of the tensors in files that it is made of, what was done to them)."""
        raise NotImplementedError


class LazyTensor(NamedTuple):
    """How one tensor of a View is computed from source tensors when it is read."""
    sources: tuple                  # ((TensorStore, key), ...)
    make: Optional[Callable]        # list of their raw arrays to the raw array; None: the source
    done: str                       # what that does, for the report; "" for nothing
    dtype: str
    shape: tuple


def passthrough(store: TensorStore, key: str, done: str = "") -> LazyTensor:
    """Return the LazyTensor that is the tensor `key` of another store; done: for the report."""
    return LazyTensor(((store, key),), None, done, store.dtype(key), store.shape(key))


class View(TensorStore):
    """A TensorStore of ``{key: LazyTensor}`` over other stores."""

    def __init__(self, path, format, rows, metadata=None):
        super().__init__(path, format, rows, metadata or {})
        self._stores = {id(store): store for row in rows.values()
                        for store, _ in row.sources}.values()

    def raw(self, key):
        """Return the tensor as it is stored, computed now. Raises KeyError."""
        row = self._entries[key]
        arrays = [store.raw(name) for store, name in row.sources]
        if row.make is None:
            return arrays[0]
        return np.ascontiguousarray(row.make(arrays)).reshape(row.shape)

    def holds(self, array):
        """Return whether an array is a view of a mapped file of a source."""
        return any(store.holds(array) for store in self._stores)

    def prefetch(self, key):
        """Prefetch a tensor's sources."""
        for store, name in self._entries[key].sources:
            store.prefetch(name)

    def release(self, key):
        """Give back the pages of a tensor's sources."""
        for store, name in self._entries[key].sources:
            store.release(name)

    def origin(self, key):
        """Return (names of the tensors in files that it is made of, what was done to them)."""
        row = self._entries[key]
        names, done = [], {}
        for store, name in row.sources:
            below, what = store.origin(name)
            names += below
            done[what] = None
        return names, "; ".join(what for what in [*done, row.done] if what)


def stored_dtype(store: TensorStore, key: str, dtype: Optional[str] = None) -> str:
    """Return the element type that a tensor is written as: `dtype` for floats, else its own."""
    found = store.dtype(key)
    return dtype if dtype and found in FLOATS else found


def stored_bytes(store: TensorStore, dtype: Optional[str] = None, keys=None) -> int:
    """Return the bytes of all tensors (or of `keys`) when they are written as `dtype`."""
    return sum(stored_size(store, key, stored_dtype(store, key, dtype))
               for key in (store if keys is None else keys))


def stored_size(store: TensorStore, key: str, dtype: str) -> int:
    """Return the bytes of one tensor with elements of `dtype` ("F32")."""
    return math.prod(store.shape(key)) * np.dtype(DTYPES[dtype]).itemsize


def slices(store, key, dtype=None):
    """Yield the bytes of one tensor as they are written, in uint8 arrays.

    A tensor that keeps its type is not copied. Raises CheckpointError naming a tensor with values
    beyond the range of `dtype`.
    """
    found, wanted = store.dtype(key), stored_dtype(store, key, dtype)
    store.prefetch(key)
    flat = np.ascontiguousarray(store.raw(key)).reshape(-1)
    for start in range(0, flat.size, SLICE):
        part = flat[start:start + SLICE]
        try:
            yield cast(part, found, wanted).view(np.uint8)
        except OverflowError:
            raise CheckpointError(
                f"{store.path}: {key}: found values beyond the range of {wanted}, expected smaller"
                " ones; keep fp32, or take bf16") from None
