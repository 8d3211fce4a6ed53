"""Embeddings of objects: a table, or put together from hashed codebooks.

Source: Ntavelis et al. 2023 (arXiv 2307.05445), section 3.1 and appendix B.3.
"""
import numpy as np
from mindspore import nn

from sgm.models.blocks import empty
from sgm.ops import scatter


def hashed_rows(objects, books, bits, multipliers=None):
    """Return the entry of each codebook that objects (B,) have: (B, books) int32. Numpy.

    It is ((a k) mod 2^32) >> (32 - bits) for object k, with a multiplier a for each codebook
    (multiply-shift hashing, Dietzfelbinger et al. 1997). The multipliers (books,) are by default
    random odd numbers of a fixed seed. The paper prints a = 2^31 + 2 i^2 + 1, with which
    neighboring objects differ in little more than the parity of their number: of 512 objects with
    2^6 entries only 2 differ at all.
    """
    if multipliers is None:
        # this stream is frozen: files of weights depend on it
        drawn = np.random.RandomState(20230711).randint(1 << 30, 1 << 31, books, dtype=np.int64)
        multipliers = 2 * drawn + 1
    products = np.asarray(objects, np.uint64)[:, None] * np.asarray(multipliers, np.uint64)
    return ((products & np.uint64(0xFFFFFFFF)) >> np.uint64(32 - bits)).astype(np.int32)


class Table(nn.Cell):
    """One row for each object."""

    def __init__(self, objects, length):
        super().__init__()
        self.embedding_table = empty(objects, length)

    def rows(self, objects):
        """Return what `construct` takes for objects (B,), numpy."""
        return np.asarray(objects, np.int32)

    def construct(self, rows):
        """Return the embeddings (B, length)."""
        return scatter.take(self.embedding_table, rows)


class Hashed(nn.Cell):
    """Entries of codebooks one after the other; objects share them.

    Which ones is found on the host: a device's integers may not wrap around, and a table of them
    would be as large as that of the embeddings.
    """

    def __init__(self, length, books, bits):
        super().__init__()
        self.books, self.bits, self.length = books, bits, length
        self.embedding_table = empty(1 << bits, length)         # row m: entry m of every codebook

    def rows(self, objects):
        """Return what `construct` takes for objects (B,), numpy."""
        return hashed_rows(objects, self.books, self.bits) * self.books + np.arange(
            self.books, dtype=np.int32)

    def construct(self, rows):
        """Return the embeddings (B, length)."""
        entries = self.embedding_table.reshape(-1, self.length // self.books)
        return scatter.take(entries, rows.reshape(-1)).reshape(-1, self.length)


def make_embeddings(spec):
    """Return the Table or Hashed of an `AutodecoderSpec`."""
    wanted = spec.embedding
    if wanted.books:
        return Hashed(wanted.length, wanted.books, wanted.bits)
    return Table(spec.objects, wanted.length)
