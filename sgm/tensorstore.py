"""Named tensors as a mapping from which one is read at a time, wherever they come from. numpy only."""
import math
from pathlib import Path

import numpy as np

from sgm.common.errors import InputError

# safetensors' names of element types. BF16 has no numpy type: it is stored as 16 bits, and read as float32.
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2",
          "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?"}


class CheckpointError(InputError):
    """Weights that cannot be used; one line that names file, key, what was found, what was expected, the remedy."""


class TensorStore:
    """A read-only mapping from key to tensor; what it is over says the class. Nothing is read before `read` or `raw`.

    Iteration, ``in``, ``len`` and ``keys()`` are a mapping's; `path` (a Path) and `format` (str) are for messages,
    `metadata` is ``{str: str}``.
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

    def keys(self):
        """The keys, in the file's order."""
        return self._entries.keys()

    def shape(self, key):
        """Shape of a tensor, a tuple. Raises KeyError."""
        return self._entries[key].shape

    def dtype(self, key):
        """Element type as safetensors names it: "F32", "BF16", ... Raises KeyError."""
        return self._entries[key].dtype

    def nbytes(self, key):
        """Bytes of a tensor as it is stored. Raises KeyError."""
        return math.prod(self.shape(key)) * np.dtype(DTYPES[self.dtype(key)]).itemsize

    def read(self, key):
        """The tensor as numbers: `raw`, but for BF16, which becomes float32 (a copy)."""
        array = self.raw(key)
        if self.dtype(key) == "BF16":
            array = (array.reshape(-1).astype(np.uint32) << 16).view(np.float32).reshape(array.shape)
        return array

    def raw(self, key):
        """The tensor as it is stored, BF16 as its bits in uint16. Raises KeyError."""
        raise NotImplementedError

    def holds(self, array):
        """Whether an array is a view of a file's map."""
        raise NotImplementedError

    def prefetch(self, key):
        """Read a tensor's pages in one go rather than one by one as they are touched, where the system can. A hint."""
        raise NotImplementedError

    def release(self, key):
        """Give back the pages that reading a tensor took, once it was copied; what was written to its views is lost."""
        raise NotImplementedError

    def origin(self, key):
        """(names of the tensors of the files that it is made of, what was done to them)."""
        raise NotImplementedError
