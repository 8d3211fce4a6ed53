"""Products and reorderings of token rows, in slices where memory requires it."""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops import operations as P
from mindspore.ops.primitive import constexpr

from sgm.ops.device import on_ascend

matmul_t = P.MatMul(transpose_b=True)
t_matmul = P.MatMul(transpose_a=True)
matmul = P.MatMul()
bmm = P.BatchMatMul()
bmm_t = P.BatchMatMul(transpose_b=True)
t_bmm = P.BatchMatMul(transpose_a=True)
_bias_add = P.BiasAdd()
bias_add_nchw = P.BiasAdd(data_format="NCHW")
# Feed-forward layers run as many rows at a time as keep their widest array below this; on a CPU six
# such arrays are in memory at once. A device computes large products better (see `attend`).
SLICE_BYTES = 32 << 20
ASCEND_SLICE_BYTES = 128 << 20
rsqrt = P.Rsqrt()


def depend(value, done):
    """Return `value`, computed no earlier than `done`.

    MindSpore's CPU runtime starts everything whose inputs are there: without this, slices that do
    not need each other are all in memory at once, and so is, for every layer, what follows from
    weights or conditions alone. `done` gets no gradient from it; a stop_gradient around it says the
    same, but several of them in turn have a gradient that MindSpore 2.8 cannot compile.
    """
    return P.Depend()(value, done)


def held(weight, x):
    """Return a weight as the products with x need it, in the type of x.

    One that is kept in half precision to save memory is widened when x is there, and not before.
    """
    return weight if weight.dtype == x.dtype else depend(weight, x).astype(x.dtype)


def in_slices(function, x, width):
    """Return function(x) of independent rows, in slices that bound its (rows, width) arrays."""
    most = ASCEND_SLICE_BYTES if on_ascend() else SLICE_BYTES
    slices = equal_slices(x.shape[0], max(1, most // (4 * width)))
    if slices == 1 or x.dtype == ms.bfloat16:   # Ascend documents no Split of bfloat16
        return function(x)
    return ops.concat(in_turn(function, (P.Split(0, slices)(x),), 0, slices, x), 0)


def in_turn(function, columns, first, last, done):
    """Return (function(*row), ...) for the rows first ... last - 1 of `columns`, in sequence.

    columns: tuples of equal length; done: what the first turn waits for. The recursion is by
    halves, not a loop: MindSpore nests the turns of a loop, and a large image has more than it
    allows.
    """
    if last - first == 1:
        head = depend(columns[0][first], done)
        return (function(head, *[column[first] for column in columns[1:]]),)
    middle = (first + last) // 2
    results = in_turn(function, columns, first, middle, done)
    return results + in_turn(function, columns, middle, last, results[-1])


@constexpr
def equal_slices(count, most):
    """Return the least number of equal slices of `count` rows with at most `most` each.

    Unequal ones would need SliceGrad on an NPU.
    """
    return next(slices for slices in range(1, count + 1)
                if count % slices == 0 and count // slices <= most)


class _BiasAdd(nn.Cell):
    """x (rows, C) + bias (C,), whose gradient is a product with ones.

    The CPU's own is up to 15 times slower.
    """

    def construct(self, x, bias):
        return _bias_add(x, bias)

    def bprop(self, x, bias, out, dout):
        sums = matmul(ones(1, dout.shape[0]), dout.astype(ms.float32))
        return dout, sums.reshape(bias.shape).astype(bias.dtype)


_bias_add_cpu = _BiasAdd()


def bias_add(x, bias):
    """Return x (rows, C) + bias (C,)."""
    return _bias_add(x, bias) if on_ascend() else _bias_add_cpu(x, bias)


def linear(x, weight, bias=None):
    """Map x (rows, in) to (rows, out); weight (out, in) as published, bias (out,)."""
    y = matmul_t(x, held(weight, x))
    return y if bias is None else bias_add(y, held(bias, x))


@constexpr
def averager(*shape):
    """Return a float32 constant of `shape` whose product with a column (or row) is its mean."""
    return Tensor(np.full(shape, 1.0 / max(shape), np.float32))


@constexpr
def ones(*shape):
    """Return a float32 constant of ones."""
    return Tensor(np.ones(shape, np.float32))


def repeat_rows(vectors, rows):
    """Repeat each vector of (groups, C) for the rows of its group: (rows, C).

    On a CPU it is a product with ones: the broadcasting kernels are slower, and each keeps 16 bytes
    per element as long as its graph exists.
    """
    groups, width = vectors.shape
    vectors = vectors.reshape(groups, 1, width)
    if on_ascend():
        return vectors.broadcast_to((groups, rows // groups, width)).reshape(rows, width)
    return bmm(ones(groups, rows // groups, 1).astype(vectors.dtype), vectors).reshape(rows, width)


@constexpr
def _row_order(shape, axes, back):
    """Return the index of the rows of `shape` in the order of `axes`, or that of the way back."""
    order = np.arange(np.prod(shape)).reshape(shape).transpose(axes).reshape(-1)
    return Tensor((np.argsort(order) if back else order).astype(np.int32))


class _Reorder(nn.Cell):
    """A gather of all rows in another order; so is its gradient, with the order of the way back."""

    def construct(self, x, order, back):
        return ops.gather(x, order, 0)

    def bprop(self, x, order, back, out, dout):
        return ops.gather(dout, back, 0), ops.zeros_like(order), ops.zeros_like(back)


_reorder = _Reorder()


def permute_rows(x, shape, axes):
    """Return `x.reshape(*shape, K).transpose(*axes, last)` of rows (prod(shape), K), as rows again.

    Each of the CPU's transpositions keeps 8 bytes per element as long as its graph exists; a gather
    keeps nothing.
    """
    if on_ascend():
        rows, width = x.shape
        return x.reshape(shape + (width,)).transpose(axes + (len(axes),)).reshape(rows, width)
    return _reorder(x, _row_order(shape, axes, False), _row_order(shape, axes, True))


class _Mix(nn.Cell):
    """`mix`, and the difference of the two, which its gradient needs."""

    def construct(self, first, second, alpha):
        rows = first.shape[0]
        difference = first - second
        return second + repeat_rows(alpha, rows) * difference, difference

    def bprop(self, first, second, alpha, out, dout):
        difference = out[1]
        dout = dout[0]
        rows, groups = dout.shape[0], alpha.shape[0]
        share = repeat_rows(depend(alpha, dout), rows) * dout
        products = (dout * difference).reshape(groups, rows // groups, -1)
        column = ones(groups, 1, rows // groups).astype(products.dtype)
        return share, dout - share, bmm(column, products).reshape(alpha.shape)


_mix = _Mix()


def mix(first, second, alpha):
    """Return alpha * first + (1 - alpha) * second of tokens (rows, C); alpha (groups, C)."""
    if on_ascend():
        return second + repeat_rows(alpha, first.shape[0]) * (first - second)
    return _mix(first, second, alpha)[0]
