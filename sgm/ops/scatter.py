"""Rows of a tensor at an index, and sums of rows at an index: each is the other's gradient, on the device.

Made of Gather and ScatterNd. Autodiff takes UnsortedSegmentSum for the gradient of a gather, and of that one a chain of
eight primitives; CANN's documents have no UnsortedSegmentSum for an Atlas A2 (ops-nn, index/unsorted_segment_sum), and
on a CPU it takes twice as long as ScatterNd, whose duplicates MindSpore adds up likewise.
"""
from mindspore import nn
from mindspore import ops as P


class Take(nn.Cell):
    """values (E, ...) at index (N,) int32, each in [0, E) -> (N, ...)."""

    def construct(self, values, index):
        return P.gather(values, index, 0)

    def bprop(self, values, index, out, dout):
        """A row gets the sum over all that took it."""
        return P.scatter_nd(index.reshape(-1, 1), dout, values.shape), P.zeros_like(index)


class Put(nn.Cell):
    """values (N, ...), added up at index (N,) int32, each in [0, count) -> (count, ...)."""

    def construct(self, values, index, count):
        return P.scatter_nd(index.reshape(-1, 1), values, (count,) + values.shape[1:])

    def bprop(self, values, index, count, out, dout):
        """Every part gets the gradient of its sum."""
        return P.gather(dout, index, 0), P.zeros_like(index), 0


take = Take()
put = Put()
