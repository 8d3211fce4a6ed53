"""Convolution, doubling and halving of volumes: cubes of voxels as token rows.

A volume of side s is s^3 rows (z, then y, then x), several volumes follow each other. On a CPU a
convolution is a product with gathered neighbors: MindSpore's Conv3D takes the same time forwards,
and its gradient 40 times longer (8 volumes of 16^3, 32 to 16 channels: 68 and 2360 ms, gathered 47
and 88 ms, one core). On Ascend it is a convolution of planes, each with its two neighbors as
further channels: Conv3D has no bfloat16 there. The convolution of a doubled volume is a product
with 2^3 gathered voxels of the volume itself, on both.
"""
from functools import cache

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops.primitive import constexpr

from sgm.ops import scatter
from sgm.ops.convolution import IM2COL_BYTES, _constant, _identity, conv2d
from sgm.ops.device import on_ascend
from sgm.ops.tokens import (
    bias_add,
    bmm_t,
    depend,
    equal_slices,
    in_turn,
    matmul,
    matmul_t,
    permute_rows,
    t_bmm,
    t_matmul,
)

TAPS = 27


@cache
def _neighbor_rows(volumes, planes, side, mirrored):
    """Return the rows (rows out, 27) of each voxel's neighbors in volumes with padded planes.

    Of `volumes` slabs of `planes` planes each, one more plane before and after is given. The row
    behind all of them is of zeros. mirrored: the neighbor on the other side comes in its place, as
    the gradient needs it.
    """
    taps = np.arange(3) - 1
    taps = -taps if mirrored else taps
    z = np.arange(planes)[:, None] + 1 + taps
    y = np.arange(side)[:, None] + taps
    outside = (y < 0) | (y >= side)
    outside = outside[:, None, :, None] | outside[None, :, None, :]       # y, x, tap y, tap x
    inside = y[:, None, :, None] * side + y[None, :, None, :]
    rows = z[:, None, None, :, None, None] * side * side + inside[None, :, :, None]
    first = np.arange(volumes).reshape(-1, 1, 1, 1, 1, 1, 1) * (planes + 2) * side * side
    zero = volumes * (planes + 2) * side * side
    return np.where(outside[None, None, :, :, None], zero, first + rows).reshape(-1, TAPS)


@constexpr
def _neighbors(volumes, planes, side, mirrored):
    return _constant(_neighbor_rows(volumes, planes, side, mirrored))


@constexpr
def _slabs(count, side, width):
    """Return (slabs, volumes, planes of each): such that a slab's neighbors fit the caches."""
    most = max(1, IM2COL_BYTES // (side * side * TAPS * width * 4))         # planes
    if most >= side:
        slabs = equal_slices(count, most // side)
        return slabs, count // slabs, side
    each = equal_slices(side, most)
    return count * each, 1, side // each


def _padded_slabs(x, count, side, slabs, volumes, planes):
    """Return a tuple of slabs, each with the plane before and after it."""
    plane = side * side * x.shape[1]
    edge = ops.zeros((count, 1, plane), x.dtype)
    x = ops.concat((edge, x.reshape(count, side, plane), edge), 1)
    pieces = ()
    for k in range(slabs):
        volume, start = k * planes // side * volumes, k * planes % side
        pieces = pieces + (x[volume:volume + volumes, start:start + planes + 2],)
    return pieces


def _columns(slab, channels, volumes, planes, side, mirrored):
    """Return the neighbors (rows, 27 * channels) of a padded slab."""
    rows = ops.concat((slab.reshape(-1, channels), ops.zeros((1, channels), slab.dtype)), 0)
    index = _neighbors(volumes, planes, side, mirrored)
    return ops.gather(rows, index, 0).reshape(-1, TAPS * channels)


class _Convolve3d(nn.Cell):
    """Product of the neighbors of tokens (rows, in) with a weight (out, in, 27): (rows, out).

    It keeps the tokens alone for its gradients, which both come from the neighbors of the output's
    gradient.
    """

    def construct(self, x, weight, count):
        out, channels, _ = weight.shape
        side = _side(x.shape[0], count)
        slabs, volumes, planes = _slabs(count, side, channels)
        weight = bmm_t(_identity(out, TAPS).astype(x.dtype), depend(weight, x))
        weight = weight.reshape(out, TAPS * channels)

        def convolved(slab):
            return matmul_t(_columns(slab, channels, volumes, planes, side, False), weight)

        pieces = _padded_slabs(x, count, side, slabs, volumes, planes)
        return ops.concat(in_turn(convolved, (pieces,), 0, slabs, x), 0)

    def bprop(self, x, weight, count, out, dout):
        wide, channels, _ = weight.shape
        side = _side(x.shape[0], count)
        slabs, volumes, planes = _slabs(count, side, wide)
        weight = depend(weight, dout).reshape(wide * channels, TAPS)
        weight = matmul_t(_identity(1, TAPS)[0].astype(weight.dtype), weight)
        weight = weight.reshape(TAPS * wide, channels)
        pieces = _padded_slabs(dout, count, side, slabs, volumes, planes)
        rows = x.shape[0] // slabs
        dx, dweight, done = (), (), dout
        for k in range(slabs):
            slab = depend(pieces[k], done)
            columns = _columns(slab, wide, volumes, planes, side, True)
            done = t_matmul(x[k * rows:(k + 1) * rows], columns)
            dx, dweight = dx + (matmul(columns, weight),), dweight + (done,)
        dx, dweight = ops.concat(dx, 0), ops.addn(dweight)
        dweight = t_bmm(dweight.reshape(channels, TAPS, wide),
                        _identity(channels, TAPS).astype(dweight.dtype))
        dweight = permute_rows(dweight.reshape(-1, TAPS), (channels, wide), (1, 0))
        return dx, dweight.reshape(wide, channels, TAPS), 0


_convolve3d = _Convolve3d()


@constexpr
def _side(rows, count):
    side = round((rows / count) ** (1 / 3))
    if side ** 3 * count != rows:
        raise ValueError(f"{rows} rows are not {count} cubes")
    return side


def conv3x3x3(x, weight, bias, count):
    """Convolve `count` volumes (count * side^3, in) with weight (out, in, 3, 3, 3), padding 1.

    Returns (count * side^3, out).
    """
    rows, channels = x.shape
    out = weight.shape[0]
    if not on_ascend():
        return bias_add(_convolve3d(x, weight.reshape(out, channels, TAPS), count), bias)
    side = _side(rows, count)
    planes = x.reshape(count, side, side * side * channels)
    edge = ops.zeros((count, 1, planes.shape[2]), x.dtype)
    shape = (count * side, side, side, channels)
    before = ops.concat((edge, planes[:, :-1]), 1).reshape(shape)
    after = ops.concat((planes[:, 1:], edge), 1).reshape(shape)
    maps = ops.concat((before, x.reshape(shape), after), 3).transpose(0, 3, 1, 2)
    weight = weight.transpose(0, 2, 1, 3, 4).reshape(out, 3 * channels, 3, 3)
    return conv2d(maps, weight, bias).transpose(0, 2, 3, 1).reshape(rows, out)


# Along an axis, of a kernel's taps (3) those that fall on the first and the second voxel of a
# window (2), by the parity of the voxel of the doubled volume (2): [tap][parity][voxel].
_AXIS = np.array([[[1, 0], [1, 0]], [[0, 1], [1, 0]], [[0, 1], [0, 1]]])


@constexpr
def _folding(out):
    """Return (out, 8 parities * 8 voxels of a window, 27 taps): 1 where a tap falls on a voxel."""
    folding = np.einsum("apt,bqu,crv->pqrtuvabc", _AXIS, _AXIS, _AXIS).reshape(64, TAPS)
    return Tensor(np.tile(folding.astype(np.float32), (out, 1, 1)))


@constexpr
def _windows(count, side):
    """Return the rows of the 2^3 voxels of all (side + 1)^3 windows of volumes.

    They begin one voxel before a volume. The row behind all of them is of zeros.
    """
    rows = count * side ** 3
    cubes = np.pad(np.arange(rows).reshape(count, side, side, side), ((0, 0), *[(1, 1)] * 3),
                   constant_values=rows)
    windows = np.lib.stride_tricks.sliding_window_view(cubes, (2, 2, 2), (1, 2, 3))
    return _constant(windows)


@constexpr
def _places(count, side):
    """Return, of each voxel of doubled volumes, its row in (windows, 8 parities)."""
    voxel = np.arange(2 * side)
    first, parity = (voxel + 1) // 2, voxel % 2
    volume = np.arange(count).reshape(-1, 1, 1, 1)
    window = np.ravel_multi_index((volume, *np.ix_(first, first, first)),
                                  (count, *[side + 1] * 3))
    z, y, x = np.ix_(parity, parity, parity)
    return _constant(window * 8 + 4 * z + 2 * y + x)


def doubled_conv3x3x3(x, weight, bias, count):
    """Return conv3x3x3(double_volumes(x, count), weight, bias, count), equal to rounding.

    Of a voxel's 27 neighbors in the doubled volume there are 2^3 different ones: the weights of
    those that are the same are added up before the product. It is made for all eight parities of
    all windows, a few more than are needed at the borders.
    """
    rows, channels = x.shape
    out, side = weight.shape[0], _side(rows, count)
    weight = depend(weight, x).reshape(out, channels, TAPS)
    weight = bmm_t(_folding(out).astype(x.dtype), weight).reshape(8 * out, 8 * channels)
    weight = permute_rows(weight, (out, 8), (1, 0))
    padded = ops.concat((x, ops.zeros((1, channels), x.dtype)), 0)
    windows = scatter.take(padded, _windows(count, side)).reshape(-1, 8 * channels)
    made = matmul_t(windows, weight).reshape(-1, out)
    return bias_add(scatter.take(made, _places(count, side)), bias)


@constexpr
def _parents(count, side):
    """Return, of each voxel of volumes of twice that side, the row of the one that it came from."""
    index = np.arange(count * side ** 3).reshape(count, side, side, side)
    return _constant(index.repeat(2, 1).repeat(2, 2).repeat(2, 3))


@constexpr
def _children(count, side):
    """Return the rows (rows of half that side, 8) of the voxels that each one is made of."""
    half = side // 2
    index = np.arange(count * side ** 3).reshape(count, half, 2, half, 2, half, 2)
    return _constant(index.transpose(0, 1, 3, 5, 2, 4, 6))


def double_volumes(x, count):
    """Double the side of `count` volumes (rows, C) by nearest neighbor: (8 * rows, C)."""
    return scatter.take(x, _parents(count, _side(x.shape[0], count)))


def halve_volumes(x, count):
    """Halve the side of `count` volumes (rows, C) by means of 2^3 voxels: (rows / 8, C)."""
    rows, channels = x.shape
    children = scatter.take(x, _children(count, _side(rows, count)))
    return children.reshape(rows // 8, 8, channels).sum(1) * 0.125
