"""Convolutions of token rows and of NCHW maps, over the image and over time."""
from functools import cache

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops import operations as P
from mindspore.ops.primitive import constexpr

from sgm.ops.device import on_ascend
from sgm.ops.tokens import (
    bias_add,
    bias_add_nchw,
    bmm,
    bmm_t,
    depend,
    equal_slices,
    held,
    in_turn,
    linear,
    matmul,
    matmul_t,
    permute_rows,
    t_bmm,
    t_matmul,
)

# A gathered im2col beats the CPU's own convolution while it fits the caches (measured: equal at
# 70 MB).
IM2COL_BYTES = 48 << 20
# Ascend's Conv2D refuses larger inputs (documented limits of W and H).
ASCEND_CONV_WIDTH, ASCEND_CONV_HEIGHT = 4096, 100000


@cache
def _patch_rows(frames, height, width, stride, before):
    """Return the input rows (rows out, 9) of the 3x3 patch of each output pixel.

    It begins `before` the pixel. Row `frames * height * width` is the appended zero row.
    """
    cut = 1 - before        # a patch reaches at most one row and column beyond the map
    y = np.arange(0, height - cut, stride)[:, None] + np.arange(3) - before
    x = np.arange(0, width - cut, stride)[:, None] + np.arange(3) - before
    outside = (((y < 0) | (y >= height))[:, None, :, None]
               | ((x < 0) | (x >= width))[None, :, None, :])
    inside = y[:, None, :, None] * width + x[None, :, None, :]
    index = np.arange(frames).reshape(-1, 1, 1, 1, 1) * height * width + inside
    return np.where(outside, frames * height * width, index).reshape(-1, 9)


@cache
def _moment_rows(videos, frames, pixels):
    """Return the rows (rows, 3) of the frame before, the frame itself and the one after."""
    rows = videos * frames * pixels
    frame = np.arange(rows) // pixels % frames
    index = np.arange(rows)[:, None] + pixels * np.array([-1, 0, 1])
    outside = np.stack((frame == 0, np.zeros(rows, bool), frame == frames - 1), 1)
    return np.where(outside, rows, index)


def _way_back(index, rows):
    """Return, of a table (rows out, taps) of input rows, that of the output rows: (rows, taps).

    Tap k of an input row is the output row whose tap k it is, or else `rows out`, a zero row.
    """
    back = np.full((rows + 1, index.shape[1]), len(index))
    for k, column in enumerate(index.T):
        back[column, k] = np.arange(len(index))
    return back[:rows]


@constexpr
def _patch_tables(*grid):
    frames, height, width = grid[:3]
    index = _patch_rows(*grid)
    return _constant(index), _constant(_way_back(index, frames * height * width))


@constexpr
def _moment_tables(*grid):
    index = _moment_rows(*grid)
    return _constant(index), _constant(_way_back(index, len(index)))


@constexpr
def _doubled_rows(frames, height, width):
    """Return the row of each pixel of maps that are doubled by nearest neighbor."""
    index = np.arange(frames * height * width).reshape(frames, height, width)
    return _constant(index.repeat(2, 1).repeat(2, 2))


def _constant(index):
    return Tensor(index.reshape(-1).astype(np.int32))


def _taps(x, index, count):
    """Return the `count` taps of each output row, from tokens (rows, C): (rows out, count * C)."""
    channels = x.shape[1]
    padded = ops.concat((x, ops.zeros((1, channels), x.dtype)), 0)
    return ops.gather(padded, index, 0).reshape(-1, count * channels)


@constexpr
def _identity(batch, taps):
    return Tensor(np.tile(np.eye(taps, dtype=np.float32), (batch, 1, 1)))


def _taps_matmul(columns, weight, bias=None):
    """Return columns (rows, taps, in) times weight (out, in, taps).

    The smaller of the two is brought into the other's order: on a CPU weights by a product with the
    identity, as its transposition keeps 8 bytes per element as long as its graph exists.
    """
    rows, taps, width = columns.shape
    out = weight.shape[0]
    if rows < out:
        columns = columns.transpose(0, 2, 1)
    elif on_ascend():
        weight = weight.transpose(0, 2, 1)
    else:
        weight = bmm_t(_identity(out, taps).astype(weight.dtype), weight)
    return linear(columns.reshape(rows, taps * width), weight.reshape(out, taps * width), bias)


class _Convolve(nn.Cell):
    """Product of the taps of tokens (rows, in) with a weight (out, in, *kernel): (rows out, out).

    It keeps the tokens alone for its gradients, which both come from the taps of the output's
    gradient. The weight comes as it is stored and waits for the tokens: to give a parameter
    another shape copies it.
    """

    def construct(self, x, weight, index, back):
        wide, channels = weight.shape[:2]
        taps = weight.size // (wide * channels)
        columns = _taps(x, index, taps).reshape(-1, taps, channels)
        return _taps_matmul(columns, depend(weight, x).reshape(wide, channels, taps))

    def bprop(self, x, weight, index, back, out, dout):
        shape = weight.shape
        wide, channels = shape[:2]
        taps = weight.size // (wide * channels)
        columns = _taps(dout, back, taps)
        weight = depend(weight, dout).reshape(wide * channels, taps)
        weight = matmul_t(_identity(1, taps)[0].astype(weight.dtype), weight)
        dx = matmul(columns, weight.reshape(taps * wide, channels))
        dweight = t_matmul(x, columns).reshape(channels, taps, wide)
        dweight = t_bmm(dweight, _identity(channels, taps).astype(weight.dtype))
        dweight = permute_rows(dweight.reshape(-1, taps), (channels, wide), (1, 0))
        return dx, dweight.reshape(shape), ops.zeros_like(index), ops.zeros_like(back)


_convolve = _Convolve()


def conv3x3(x, weight, bias, frames, height, width, stride=1, upsample=False):
    """Convolve tokens (frames * height * width, in) with a 3x3 kernel and padding 1.

    `upsample` doubles the map (nearest) before the convolution. Returns (frames * height' * width',
    out).
    """
    channels, out = x.shape[1], weight.shape[0]
    factor = 2 if upsample else 1
    height_out, width_out = height * factor // stride, width * factor // stride
    rows = frames * height_out * width_out
    weight, bias = held(weight, x), held(bias, x)
    if not on_ascend():
        most = max(1, frames * IM2COL_BYTES // (rows * 9 * max(channels, out) * 4))
        slices = equal_slices(frames, most) if rows > out else 1
        count = frames // slices
        index, back = _patch_tables(count, height * factor, width * factor, stride, 1)

        def convolved(piece):
            if upsample:
                piece = ops.gather(piece, _doubled_rows(count, height, width), 0)
            return bias_add(_convolve(piece, weight, index, back), bias)

        if slices == 1:
            return convolved(x)
        return ops.concat(in_turn(convolved, (P.Split(0, slices)(x),), 0, slices, x), 0)
    maps = x.reshape(frames, height, width, channels).transpose(0, 3, 1, 2)
    if upsample:
        maps = upsample_nchw(maps)
    maps = conv2d(maps, weight, bias, stride=stride)
    return maps.transpose(0, 2, 3, 1).reshape(rows, out)


def temporal_conv(x, weight, bias, videos, frames):
    """Convolve tokens (videos * frames * pixels, in) over frames; weight (out, in, 3, 1, 1)."""
    rows, channels = x.shape
    pixels = rows // (videos * frames)
    weight, bias = held(weight, x), held(bias, x)
    if not on_ascend():
        index, back = _moment_tables(videos, frames, pixels)
        return bias_add(_convolve(x, weight, index, back), bias)
    weight = depend(weight, x).reshape(weight.shape[0], channels, 3)
    video = x.reshape(videos, frames * pixels, channels)
    edge = ops.zeros((videos, pixels, channels), x.dtype)
    before, after = edge, edge
    if frames > 1:
        before = ops.concat((edge, video[:, :-pixels]), 1)
        after = ops.concat((video[:, pixels:], edge), 1)
    columns = ops.stack((before, video, after), 2)
    return _taps_matmul(columns.reshape(rows, 3, channels), weight, bias)


class _Conv3x3(nn.Cell):
    """3x3 convolution of NCHW maps, padding 1, whose gradients are 10 times faster than the CPU's.

    The input's gradient is a convolution with the mirrored kernel, the kernel's a product with the
    im2col matrix.
    """

    def __init__(self):
        super().__init__()
        self.mirror = P.ReverseV2([2])

    def construct(self, x, weight):
        return P.Conv2D(weight.shape[0], 3, pad_mode="pad", pad=1)(x, weight)

    def bprop(self, x, weight, out, dout):
        count, channels, height, width = x.shape
        wide = weight.shape[0]
        mirrored = self.mirror(weight.reshape(wide, channels, 9)).reshape(weight.shape)
        mirrored = mirrored.transpose(1, 0, 2, 3)
        dx = P.Conv2D(channels, 3, pad_mode="pad", pad=1)(dout, mirrored)
        rows = count * height * width
        x = x.transpose(0, 2, 3, 1).reshape(rows, channels)
        columns = _taps(x, _patch_tables(count, height, width, 1, 1)[0], 9)
        dout = dout.transpose(1, 0, 2, 3).reshape(wide, rows)
        dweight = matmul(dout, columns).reshape(wide, 9, channels).transpose(0, 2, 1)
        return dx, dweight.reshape(weight.shape)


_conv3x3_nchw = _Conv3x3()


def conv2d(x, weight, bias, stride=1, pad=(1, 1, 1, 1)):
    """Convolve NCHW maps; `pad` = (top, bottom, left, right). 1x1 kernels take pad (0, 0, 0, 0).

    Raises ValueError for a map that is too wide for Ascend.
    """
    count, channels, height, width = x.shape
    wide = weight.shape[0]
    kernel = weight.shape[2:]
    if on_ascend() and width > ASCEND_CONV_WIDTH:
        raise ValueError(f"conv2d: input width {width} exceeds Ascend's {ASCEND_CONV_WIDTH};"
                         " tile the image")
    if kernel == (1, 1):
        weight = depend(weight, x).reshape(1, wide, channels).broadcast_to((count, wide, channels))
        y = bmm(weight, x.reshape(count, channels, height * width))
        y = y.reshape(count, wide, height, width)
    elif not on_ascend() and kernel == (3, 3) and stride == 1 and pad == (1, 1, 1, 1):
        y = _conv3x3_nchw(x, weight)
    elif (not on_ascend() and (kernel, stride, pad) == ((3, 3), 2, (0, 1, 0, 1))
          and count * (height // 2) * (width // 2) * 9 * channels * 4 <= IM2COL_BYTES):
        # A product rounds alike on any number of cores; the CPU's strided convolution does not.
        index, _ = _patch_tables(count, height, width, stride, 0)
        columns = _taps(x.transpose(0, 2, 3, 1).reshape(-1, channels), index, 9)
        weight = depend(weight, columns).reshape(wide, channels, 9)
        weight = weight.transpose(0, 2, 1).reshape(wide, 9 * channels)
        y = matmul_t(columns, weight).reshape(count, height // 2, width // 2, wide)
        y = y.transpose(0, 3, 1, 2)
    else:
        y = P.Conv2D(wide, kernel, pad_mode="pad", pad=pad, stride=stride)(x, weight)
    return y if bias is None else bias_add_nchw(y, bias)


def upsample_nchw(x):
    """Double NCHW maps by nearest neighbor."""
    count, channels, height, width = x.shape
    if on_ascend():
        return ops.interpolate(x, size=(height * 2, width * 2), mode="nearest")
    x = x.reshape(count * channels, height, 1, width, 1)
    x = x.broadcast_to((count * channels, height, 2, width, 2))
    return x.reshape(count, channels, height * 2, width * 2)


def to_time(x, frames):
    """Rearrange (videos * frames, C, H, W) to (videos, C, frames, pixels) for `time_conv_nchw`.

    On Ascend pixels come before frames: its convolution allows 100000 rows but only 4096 columns.
    """
    count, channels, height, width = x.shape
    videos, pixels = count // frames, height * width
    if on_ascend():
        return x.reshape(videos, frames, channels, pixels).transpose(0, 2, 3, 1)
    x = permute_rows(x.reshape(count * channels, pixels), (videos, frames, channels), (0, 2, 1))
    return x.reshape(videos, channels, frames, pixels)


def from_time(x, frames, height, width):
    """Undo `to_time`."""
    videos, channels = x.shape[:2]
    if on_ascend():
        x = x.transpose(0, 3, 1, 2)
    else:
        x = permute_rows(x.reshape(-1, height * width), (videos, channels, frames), (0, 2, 1))
    return x.reshape(videos * frames, channels, height, width)


def time_conv_nchw(x, weight, bias):
    """Convolve the map of `to_time` over frames; weight (out, C, 3, 1, 1)."""
    out, channels = weight.shape[:2]
    if on_ascend():
        weight, rows, pieces = weight.reshape(out, channels, 1, 3), x.shape[2], []
        # A large image has more pixels than the convolution takes rows.
        count = -(-rows // ASCEND_CONV_HEIGHT)
        for i in range(count):
            piece = x[:, :, rows * i // count:rows * (i + 1) // count] if count > 1 else x
            pieces.append(conv2d(piece, weight, bias, pad=(0, 0, 1, 1)))
        return ops.concat(pieces, 2) if count > 1 else pieces[0]
    return conv2d(x, depend(weight, x).reshape(out, channels, 3, 1), bias, pad=(1, 1, 0, 0))
