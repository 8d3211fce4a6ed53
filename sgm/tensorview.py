"""Tensors under other names and in other forms, made when they are read: nothing is copied before it is written."""
from typing import Callable, NamedTuple, Optional

import numpy as np

from sgm.tensorstore import TensorStore


class Made(NamedTuple):
    """How a tensor of a View comes about."""
    sources: tuple                              # ((TensorStore, key), ...)
    make: Optional[Callable]                    # list of their raw arrays -> the raw array; None: the source itself
    done: str                                   # what that does, for the report; "" for nothing
    dtype: str
    shape: tuple


def taken(store, key, done=""):
    """The tensor of another store as it is."""
    return Made(((store, key),), None, done, store.dtype(key), store.shape(key))


class View(TensorStore):
    """A TensorStore of ``{key: Made}`` over other stores."""

    def __init__(self, path, format, rows, metadata=None):
        super().__init__(path, format, rows, metadata or {})
        self._stores = {id(store): store for row in rows.values() for store, _ in row.sources}.values()

    def raw(self, key):
        row = self._entries[key]
        arrays = [store.raw(name) for store, name in row.sources]
        return arrays[0] if row.make is None else np.ascontiguousarray(row.make(arrays)).reshape(row.shape)

    def holds(self, array):
        return any(store.holds(array) for store in self._stores)

    def prefetch(self, key):
        for store, name in self._entries[key].sources:
            store.prefetch(name)

    def release(self, key):
        for store, name in self._entries[key].sources:
            store.release(name)

    def origin(self, key):
        row = self._entries[key]
        names, done = [], {}
        for store, name in row.sources:
            below, what = store.origin(name)
            names += below
            done[what] = None
        return names, "; ".join(what for what in [*done, row.done] if what)
