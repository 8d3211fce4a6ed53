"""Rows of a tensor at an index, and sums of rows at an index: each is the other's gradient.

Both are made of Gather and ScatterNd. Autodiff uses UnsortedSegmentSum for the gradient of a
gather, and for the gradient of that a chain of eight primitives; CANN's documents have no
UnsortedSegmentSum for an Atlas A2 (ops-nn, index/unsorted_segment_sum), and on a CPU it takes twice
as long as ScatterNd, whose duplicates MindSpore adds up as well.
"""
from mindspore import nn
from mindspore import ops as P


class Take(nn.Cell):
    """Gathers rows."""

    def construct(self, values, index):
        """Return the rows (N, ...) of values (E, ...) at index (N,) int32, each in [0, E)."""
        return P.gather(values, index, 0)

    def bprop(self, values, index, out, dout):
        """Give each row the sum over all gathers of it."""
        return P.scatter_nd(index.reshape(-1, 1), dout, values.shape), P.zeros_like(index)


class Put(nn.Cell):
    """Adds rows up."""

    def construct(self, values, index, count):
        """Return (count, ...): values (N, ...) added up at index (N,) int32, each in [0, count)."""
        return P.scatter_nd(index.reshape(-1, 1), values, (count,) + values.shape[1:])

    def bprop(self, values, index, count, out, dout):
        """Give each term the gradient of its sum."""
        return P.gather(dout, index, 0), P.zeros_like(index), 0


take = Take()
put = Put()
