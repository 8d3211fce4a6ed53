"""Convolutions of token rows and of NCHW maps, over the image and over time."""
from functools import cache

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops import operations as P
from mindspore.ops.primitive import constexpr

from sgm.ops.device import on_ascend
from sgm.ops.tokens import (
    bias_add_nchw,
    bmm,
    depend,
    equal_slices,
    in_turn,
    linear,
    matmul,
    matmul_t,
    permute_rows,
)

# A gathered im2col beats the CPU's own convolution while it fits the caches (measured: equal at
# 70 MB).
IM2COL_BYTES = 48 << 20
# Ascend's Conv2D refuses larger inputs (documented limits of W and H).
ASCEND_CONV_WIDTH, ASCEND_CONV_HEIGHT = 4096, 100000


@cache
def _patch_rows(frames, height, width, stride, upsample, before):
    """Return the input rows of the 3x3 patch of each output pixel, which begins `before` it.

    Row `frames * height * width` is the appended zero row.
    """
    factor = 2 if upsample else 1
    cut = 1 - before        # a patch reaches at most one row and column beyond the map
    y = np.arange(0, height * factor - cut, stride)[:, None] + np.arange(3) - before
    x = np.arange(0, width * factor - cut, stride)[:, None] + np.arange(3) - before
    outside = (((y < 0) | (y >= height * factor))[:, None, :, None]
               | ((x < 0) | (x >= width * factor))[None, :, None, :])
    inside = (y // factor)[:, None, :, None] * width + (x // factor)[None, :, None, :]
    index = np.arange(frames).reshape(-1, 1, 1, 1, 1) * height * width + inside
    return np.where(outside, frames * height * width, index).reshape(-1).astype(np.int32)


@constexpr
def _patch_index(frames, height, width, stride, upsample, before):
    return Tensor(_patch_rows(frames, height, width, stride, upsample, before))


def _im2col(x, frames, height, width, stride=1, upsample=False, before=1):
    """Return the 3x3 patches of tokens (frames * height * width, C): (rows out, 9 * C).

    Taps come before channels. before: 1, or 0 for maps padded below and on the right only.
    """
    channels = x.shape[1]
    padded = ops.concat((x, ops.zeros((1, channels), x.dtype)), 0)
    index = _patch_index(frames, height, width, stride, upsample, before)
    return ops.gather(padded, index, 0).reshape(-1, 9 * channels)


def _taps_matmul(columns, weight, bias):
    """Return columns (rows, taps, in) times weight (out, in, taps).

    The smaller of the two is brought into the other's order.
    """
    rows, taps, width = columns.shape
    out = weight.shape[0]
    if rows < out:
        columns = columns.transpose(0, 2, 1)
    else:
        weight = weight.transpose(0, 2, 1)
    return linear(columns.reshape(rows, taps * width), weight.reshape(out, taps * width), bias)


def conv3x3(x, weight, bias, frames, height, width, stride=1, upsample=False):
    """Convolve tokens (frames * height * width, in) with a 3x3 kernel and padding 1.

    `upsample` doubles the map (nearest) before the convolution. Returns (frames * height' * width',
    out).
    """
    channels, out = x.shape[1], weight.shape[0]
    factor = 2 if upsample else 1
    height_out, width_out = height * factor // stride, width * factor // stride
    rows = frames * height_out * width_out
    if not on_ascend():
        weight = depend(weight, x).reshape(out, channels, 9)
        if rows > out:
            weight = weight.transpose(0, 2, 1).reshape(out, 9 * channels)
        most = max(1, frames * IM2COL_BYTES // (rows * 9 * channels * 4))
        slices = equal_slices(frames, most) if rows > out else 1

        def convolved(piece):
            columns = _im2col(piece, frames // slices, height, width, stride, upsample)
            if rows > out:
                return linear(columns, weight, bias)
            return _taps_matmul(columns.reshape(-1, 9, channels), weight, bias)

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
        columns = _im2col(x, count, height, width)
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
        weight = weight.reshape(1, wide, channels).broadcast_to((count, wide, channels))
        y = bmm(weight, x.reshape(count, channels, height * width))
        y = y.reshape(count, wide, height, width)
    elif not on_ascend() and kernel == (3, 3) and stride == 1 and pad == (1, 1, 1, 1):
        y = _conv3x3_nchw(x, weight)
    elif (not on_ascend() and (kernel, stride, pad) == ((3, 3), 2, (0, 1, 0, 1))
          and count * (height // 2) * (width // 2) * 9 * channels * 4 <= IM2COL_BYTES):
        # A product rounds alike on any number of cores; the CPU's strided convolution does not.
        columns = _im2col(x.transpose(0, 2, 3, 1).reshape(-1, channels), count, height, width,
                          stride, before=0)
        weight = weight.reshape(wide, channels, 9).transpose(0, 2, 1).reshape(wide, 9 * channels)
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
    return conv2d(x, weight.reshape(out, channels, 3, 1), bias, pad=(1, 1, 0, 0))
