"""The one place that knows what differs between MindSpore on a CPU and on an Ascend NPU.

Networks are written in *token layout*: an activation is a 2-D tensor ``(rows, channels)`` whose rows run over
frames, then image rows, then columns. Linear layers, 1x1 convolutions, skip concatenation and temporal convolution
then need no transposition. The VAE, whose maps are large and whose layers are all convolutions, stays in NCHW.

Every function has a form for each target. ``set_target("Ascend")`` makes graphs of the Ascend form on any machine, so
that they can be exported and audited without a device; callers never ask which target is in force.
"""
import os
import threading
import time
from contextlib import suppress
from functools import cache

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops import operations as P
from mindspore.ops.operations.nn_ops import FlashAttentionScore
from mindspore.ops.primitive import constexpr

from sgm.config import ConfigError

TARGETS = ("CPU", "Ascend")
_target = "CPU"

# A gathered im2col beats the CPU's own convolution while it fits the caches' reach (measured: equal at 70 MB).
IM2COL_BYTES = 48 << 20
# Attention is cut into slices whose score matrix stays below this.
SCORE_BYTES = 256 << 20
# Ascend's Conv2D refuses wider inputs (documented limit of W).
ASCEND_CONV_WIDTH = 4096


def set_target(name):
    """Choose the operator forms that graphs built from now on take: ``"CPU"`` or ``"Ascend"``."""
    global _target
    if name not in TARGETS:
        raise ConfigError(f"--device: found {name!r}, expected one of {', '.join(TARGETS)}")
    _target = name


def target():
    """The target in force."""
    return _target


def set_device(name, device_id=0, mode="graph"):
    """Select the device, its operator forms and MindSpore's precision switches.

    On Ascend, HF32 is switched off so that what is called float32 (the VAE above all) is float32. Raises ConfigError.
    """
    set_target(name)
    ms.set_context(mode=ms.PYNATIVE_MODE)  # graphs are made by ms.jit, never by the global mode
    set_jit(mode == "graph")
    if name == "CPU":
        if ms.get_context("device_target") != name:  # MindSpore refuses a second call, even to the same device
            ms.set_device(name)
        return
    try:
        ms.set_device(name, device_id)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ConfigError(f"--device {name}: MindSpore {ms.__version__} cannot use it ({str(error).splitlines()[0]});"
                          " on an NPU host source CANN's set_env.sh first, elsewhere use --device CPU") from None
    ms.device_context.ascend.op_precision.conv_allow_hf32(False)
    ms.device_context.ascend.op_precision.matmul_allow_hf32(False)


_jit = True


def set_jit(on):
    """Whether `compiled` compiles (graph mode) or leaves functions as they are (pynative, for debugging)."""
    global _jit
    _jit = on


def compiled(function):
    """`function` (a function, or the `construct` of a Cell) as a compiled graph, unless graphs are switched off."""
    return ms.jit(function) if _jit else function


def settle():
    """Wait, asleep, until what was launched is computed (on a CPU; an NPU's host has cores to spare).

    MindSpore computes in threads behind the caller's back, and whoever asks for a value spins until it is there: on a
    few cores that starves the computation itself (measured: one convolution and its gradient took 148 ms instead of 22
    on one core). So wait until none of this process's other threads has work, and ask then.
    """
    pause, idle = 0.0005, 0
    while _target == "CPU" and idle < 2:  # twice: one thread may just be handing over to the next
        time.sleep(pause)
        idle = 0 if _others_run() else idle + 1
        pause = min(0.01, 1.5 * pause) if idle == 0 else 0.0005


def _others_run():
    """Whether a thread of this process, other than the caller, is running or wants to (Linux)."""
    me = str(threading.get_native_id())
    for thread in os.listdir("/proc/self/task"):
        if thread != me:
            with suppress(OSError):  # it may have ended meanwhile
                with open(f"/proc/self/task/{thread}/stat") as file:
                    if file.read().rpartition(")")[2].split()[0] in "RD":
                        return True
    return False


def fetch(tensor):
    """The numpy value of `tensor`, waited for asleep (see `settle`)."""
    settle()
    return tensor.asnumpy()


_matmul_t = P.MatMul(transpose_b=True)
_matmul = P.MatMul()
_bmm = P.BatchMatMul()
_bmm_t = P.BatchMatMul(transpose_b=True)
_bias_add = P.BiasAdd()
_bias_add_nchw = P.BiasAdd(data_format="NCHW")
_softmax = P.Softmax(-1)
_rsqrt = P.Rsqrt()
_sigmoid = P.Sigmoid()
_exp = P.Exp()
_reduce_sum = P.ReduceSum(keep_dims=True)


class _Softmax(nn.Cell):
    """Softmax over the last axis; its own gradient, because the CPU kernel's is 20 times slower on small rows."""

    def construct(self, x):
        return _softmax(x)

    def bprop(self, x, out, dout):
        weighted = out * dout
        return (weighted - out * _reduce_sum(weighted, -1),)


class _NormalCdf(nn.Cell):
    """Phi(x), the standard normal distribution function, with the density as its gradient."""

    def construct(self, x):
        square = x * x
        p = 3.62785432e-9 * square - 2.67566390e-7
        p = p * square + 7.94814141e-6
        p = p * square - 1.10546773e-4
        p = p * square - 6.60534043e-5
        p = p * square + 7.26682982e-2
        p = p * square + 1.59576854
        return _sigmoid(p * x)

    def bprop(self, x, out, dout):
        return (dout * (0.3989422804014327 * _exp(-0.5 * x * x)),)


softmax = _Softmax()
_normal_cdf = _NormalCdf()


def gelu(x):
    """Exact GELU, x * Phi(x) (the CPU's tanh form is off by 1e-4)."""
    if _target == "Ascend":
        return ops.gelu(x, approximate="none")
    return x * _normal_cdf(x)


def silu(x):
    """x * sigmoid(x)."""
    return ops.silu(x)


def linear(x, weight, bias=None):
    """(rows, in) -> (rows, out); weight (out, in) as published, bias (out,)."""
    y = _matmul_t(x, weight)
    return y if bias is None else _bias_add(y, bias)


def geglu(x, weight, bias):
    """value * GELU(gate) of one projection (rows, in) -> (rows, inner); weight (2 * inner, in): value, then gate."""
    inner = weight.shape[0] // 2
    if x.shape[0] > x.shape[1]:  # cutting the weight in two moves less memory than cutting the result
        value = linear(x, weight[:inner], bias[:inner])
        gate = linear(x, weight[inner:], bias[inner:])
    else:
        both = linear(x, weight, bias)
        value, gate = both[:, :inner], both[:, inner:]
    return value * gelu(gate)


# --- normalisation: statistics always in float32 ---------------------------------------------------------------

@constexpr
def _averager(*shape):
    """A float32 constant of `shape` whose product with a column (or row) is that column's mean."""
    return Tensor(np.full(shape, 1.0 / max(shape), np.float32))


@constexpr
def _batch_averager(batch, n):
    return Tensor(np.full((batch, 1, n), 1.0 / n, np.float32))


@constexpr
def _group_averager(channels, groups):
    size = channels // groups
    return Tensor(np.kron(np.eye(groups, dtype=np.float32), np.full((size, size), 1.0 / size, np.float32)))


@constexpr
def _ones(*shape):
    return Tensor(np.ones(shape, np.float32))


def layer_norm(x, weight, bias, eps=1e-5):
    """Layer norm over the channels of (rows, channels)."""
    dtype = x.dtype
    x = x.astype(ms.float32)
    if _target == "Ascend":
        y = P.LayerNorm(1, 1, eps)(x, weight.astype(ms.float32), bias.astype(ms.float32))[0]
        return y.astype(dtype)
    width = x.shape[1]
    mean = _averager(width, 1)  # a product with ones is 3 times faster than the CPU's LayerNorm, and exact
    x = x - _matmul(_matmul(x, mean), _ones(1, width))
    y = x * _matmul(_rsqrt(_matmul(x * x, mean) + eps), weight.astype(ms.float32).reshape(1, width))
    return _bias_add(y, bias.astype(ms.float32)).astype(dtype)


def spread(vectors, rows):
    """(groups, C) -> (rows, C), each vector for the rows of its group.

    A product with ones: the CPU's broadcasting kernels are slower, and each keeps 16 bytes per element for ever.
    """
    groups, width = vectors.shape
    vectors = vectors.reshape(groups, 1, width)
    if _target == "Ascend":
        return vectors.broadcast_to((groups, rows // groups, width)).reshape(rows, width)
    return _bmm(_ones(groups, rows // groups, 1).astype(vectors.dtype), vectors).reshape(rows, width)


def group_norm(x, weight, bias, batch, groups=32, eps=1e-5):
    """Group norm of tokens (rows, channels); statistics over each of `batch` equal runs of rows (frames or videos)."""
    dtype = x.dtype
    rows, channels = x.shape
    x = x.astype(ms.float32)
    weight, bias = weight.astype(ms.float32), bias.astype(ms.float32)
    if _target == "Ascend":
        x = x.reshape(batch, rows // batch, channels)
        y = ops.group_norm(x.transpose(0, 2, 1), groups, weight, bias, eps).transpose(0, 2, 1)
        return y.reshape(rows, channels).astype(dtype)
    mean = _batch_averager(batch, rows // batch)
    average = _group_averager(channels, groups)
    shape = (batch, rows // batch, channels)
    x = x - spread(_matmul(_bmm(mean, x.reshape(shape)).reshape(batch, channels), average), rows)
    variance = _matmul(_bmm(mean, (x * x).reshape(shape)).reshape(batch, channels), average)
    return _bias_add(x * spread(_rsqrt(variance + eps) * weight, rows), bias).astype(dtype)


class _GroupNormNchw(nn.Cell):
    """Group norm of (N, C, K) float32 maps; sums over pixels as products with ones, in the gradient as well."""

    def __init__(self, groups, eps):
        super().__init__()
        self.groups, self.eps = groups, eps

    def standardise(self, x):
        """-> x with mean 0 in each group, (N * groups, K), and 1 / deviation, (N * groups, 1)."""
        rows = x.reshape(x.shape[0] * self.groups, -1)
        pixels = rows.shape[1]
        mean = _averager(pixels, 1)
        rows = rows - _matmul(_matmul(rows, mean), _ones(1, pixels))
        return rows, _rsqrt(_matmul(rows * rows, mean) + self.eps)

    def construct(self, x, weight, bias):
        count, channels, pixels = x.shape
        rows, scale = self.standardise(x)
        scale = scale.reshape(count, self.groups, 1) * weight.reshape(1, self.groups, -1)
        scale = _matmul(scale.reshape(-1, 1), _ones(1, pixels))
        return _bias_add_nchw((rows.reshape(scale.shape) * scale).reshape(x.shape), bias)

    def bprop(self, x, weight, bias, out, dout):
        count, channels, pixels = x.shape
        rows, scale = self.standardise(x)
        ones = _ones(pixels, 1)
        flat = (count * channels, pixels)
        each = scale.reshape(count, self.groups, 1).broadcast_to((count, self.groups, channels // self.groups))
        each = each.reshape(count, channels)
        sums = _matmul(dout.reshape(flat), ones).reshape(count, channels)
        products = _matmul(dout.reshape(flat) * rows.reshape(flat), ones).reshape(count, channels) * each
        group = (count * self.groups, channels // self.groups)
        size = 1.0 / (group[1] * pixels)
        shift = (sums * weight).reshape(group).sum(1, keepdims=True) * size * scale
        slope = (products * weight).reshape(group).sum(1, keepdims=True) * size * scale * scale
        wide = _ones(1, rows.shape[1])
        dx = (dout.reshape(flat) * _matmul((each * weight).reshape(-1, 1), _ones(1, pixels))).reshape(rows.shape)
        dx = dx - _matmul(shift, wide) - rows * _matmul(slope, wide)
        return dx.reshape(x.shape), products.sum(0), sums.sum(0)


_group_norm_cell = cache(_GroupNormNchw)


def group_norm_nchw(x, weight, bias, norm):
    """Group norm of (N, C, ...) maps; `norm` from `group_norm_of`, which holds the number of groups and eps."""
    if _target == "Ascend":
        return ops.group_norm(x, norm.groups, weight, bias, norm.eps)
    shape = x.shape
    return norm(x.reshape(shape[0], shape[1], -1), weight, bias).reshape(shape)


def group_norm_of(groups, eps):
    """The one Cell that normalises maps in so many groups, for `group_norm_nchw`."""
    return _group_norm_cell(groups, eps)


# --- order of rows ---------------------------------------------------------------------------------------------

@constexpr
def _row_order(shape, axes, back):
    """Index of the rows of `shape` in the order of `axes`, or of the way back."""
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
    """`x.reshape(*shape, K).transpose(*axes, last)` of rows (prod(shape), K), as rows again.

    Each of the CPU's transpositions keeps 8 bytes per element for as long as its graph lives; a gather keeps nothing.
    """
    if _target == "Ascend":
        rows, width = x.shape
        return x.reshape(shape + (width,)).transpose(axes + (len(axes),)).reshape(rows, width)
    return _reorder(x, _row_order(shape, axes, False), _row_order(shape, axes, True))


# --- convolution -----------------------------------------------------------------------------------------------

@cache
def _patch_rows(frames, height, width, stride, upsample):
    """For each output pixel the input rows of its 3x3 patch; `frames * height * width` is the appended zero row."""
    factor = 2 if upsample else 1
    y = np.arange(0, height * factor, stride)[:, None] + np.arange(-1, 2)
    x = np.arange(0, width * factor, stride)[:, None] + np.arange(-1, 2)
    outside = ((y < 0) | (y >= height * factor))[:, None, :, None] | ((x < 0) | (x >= width * factor))[None, :, None, :]
    inside = (y // factor)[:, None, :, None] * width + (x // factor)[None, :, None, :]
    index = np.arange(frames).reshape(-1, 1, 1, 1, 1) * height * width + inside
    return np.where(outside, frames * height * width, index).reshape(-1).astype(np.int32)


@constexpr
def _patch_index(frames, height, width, stride, upsample):
    return Tensor(_patch_rows(frames, height, width, stride, upsample))


def _im2col(x, frames, height, width, stride=1, upsample=False):
    """The 3x3 patches of tokens (frames * height * width, C): (rows out, 9 * C), taps before channels."""
    channels = x.shape[1]
    padded = ops.concat((x, ops.zeros((1, channels), x.dtype)), 0)
    index = _patch_index(frames, height, width, stride, upsample)
    return ops.gather(padded, index, 0).reshape(-1, 9 * channels)


def _taps_matmul(columns, weight, bias):
    """columns (rows, taps, in) times weight (out, in, taps): the smaller of the two is brought into the other's order."""
    rows, taps, width = columns.shape
    out = weight.shape[0]
    if rows < out:
        columns = columns.transpose(0, 2, 1)
    else:
        weight = weight.transpose(0, 2, 1)
    return linear(columns.reshape(rows, taps * width), weight.reshape(out, taps * width), bias)


def conv3x3(x, weight, bias, frames, height, width, stride=1, upsample=False):
    """3x3 convolution with padding 1 over tokens (frames * height * width, in).

    `upsample` doubles the map (nearest) before the convolution. -> (frames * height' * width', out).
    """
    channels, out = x.shape[1], weight.shape[0]
    factor = 2 if upsample else 1
    height_out, width_out = height * factor // stride, width * factor // stride
    rows = frames * height_out * width_out
    if _target == "CPU":
        weight = weight.reshape(out, channels, 9)
        group = max(1, frames * IM2COL_BYTES // (rows * 9 * channels * 4)) if rows > out else frames
        if rows > out:
            weight = weight.transpose(0, 2, 1).reshape(out, 9 * channels)
        pieces = []
        for i in range(0, frames, group):
            count = min(group, frames - i)
            piece = x[i * height * width:(i + count) * height * width]
            columns = _im2col(piece, count, height, width, stride, upsample)
            if rows > out:
                pieces.append(linear(columns, weight, bias))
            else:
                pieces.append(_taps_matmul(columns.reshape(-1, 9, channels), weight, bias))
        return ops.concat(pieces, 0) if len(pieces) > 1 else pieces[0]
    maps = x.reshape(frames, height, width, channels).transpose(0, 3, 1, 2)
    if upsample:
        maps = upsample_nchw(maps)
    maps = conv2d(maps, weight, bias, stride=stride)
    return maps.transpose(0, 2, 3, 1).reshape(rows, out)


def temporal_conv(x, weight, bias, videos, frames):
    """(3, 1, 1) convolution over the frames of tokens (videos * frames * pixels, in); weight (out, in, 3, 1, 1)."""
    rows, channels = x.shape
    pixels = rows // (videos * frames)
    weight = weight.reshape(weight.shape[0], channels, 3)
    video = x.reshape(videos, frames * pixels, channels)
    edge = ops.zeros((videos, pixels, channels), x.dtype)
    before, after = edge, edge
    if frames > 1:
        before = ops.concat((edge, video[:, :-pixels]), 1)
        after = ops.concat((video[:, pixels:], edge), 1)
    columns = ops.stack((before, video, after), 2)
    return _taps_matmul(columns.reshape(rows, 3, channels), weight, bias)


class _Conv3x3(nn.Cell):
    """3x3 convolution of NCHW maps, padding 1, with gradients 10 times faster than the CPU's own kernels.

    The input's gradient is a convolution with the mirrored kernel, the kernel's a product with the im2col matrix.
    """

    def __init__(self):
        super().__init__()
        self.mirror = P.ReverseV2([2])

    def construct(self, x, weight):
        return P.Conv2D(weight.shape[0], 3, pad_mode="pad", pad=1)(x, weight)

    def bprop(self, x, weight, out, dout):
        count, channels, height, width = x.shape
        wide = weight.shape[0]
        mirrored = self.mirror(weight.reshape(wide, channels, 9)).reshape(weight.shape).transpose(1, 0, 2, 3)
        dx = P.Conv2D(channels, 3, pad_mode="pad", pad=1)(dout, mirrored)
        rows = count * height * width
        columns = _im2col(x.transpose(0, 2, 3, 1).reshape(rows, channels), count, height, width)
        dout = dout.transpose(1, 0, 2, 3).reshape(wide, rows)
        dweight = _matmul(dout, columns).reshape(wide, 9, channels).transpose(0, 2, 1)
        return dx, dweight.reshape(weight.shape)


_conv3x3_nchw = _Conv3x3()


def conv2d(x, weight, bias, stride=1, pad=(1, 1, 1, 1)):
    """Convolution of NCHW maps; `pad` = (top, bottom, left, right). 1x1 kernels take pad (0, 0, 0, 0)."""
    count, channels, height, width = x.shape
    wide = weight.shape[0]
    kernel = weight.shape[2:]
    if _target == "Ascend" and width > ASCEND_CONV_WIDTH:
        raise ValueError(f"conv2d: input width {width} exceeds Ascend's {ASCEND_CONV_WIDTH}; tile the image")
    if kernel == (1, 1):
        weight = weight.reshape(1, wide, channels).broadcast_to((count, wide, channels))
        y = _bmm(weight, x.reshape(count, channels, height * width)).reshape(count, wide, height, width)
    elif _target == "CPU" and kernel == (3, 3) and stride == 1 and pad == (1, 1, 1, 1):
        y = _conv3x3_nchw(x, weight)
    else:
        y = P.Conv2D(wide, kernel, pad_mode="pad", pad=pad, stride=stride)(x, weight)
    return y if bias is None else _bias_add_nchw(y, bias)


def upsample_nchw(x):
    """Nearest-neighbour doubling of NCHW maps."""
    count, channels, height, width = x.shape
    if _target == "Ascend":
        return ops.interpolate(x, size=(height * 2, width * 2), mode="nearest")
    x = x.reshape(count * channels, height, 1, width, 1).broadcast_to((count * channels, height, 2, width, 2))
    return x.reshape(count, channels, height * 2, width * 2)


def to_time(x, frames):
    """(videos * frames, C, H, W) -> (videos, C, frames, pixels), the map on which `time_conv_nchw` works.

    On Ascend pixels come before frames: its convolution allows 100000 rows but only 4096 columns.
    """
    count, channels, height, width = x.shape
    videos, pixels = count // frames, height * width
    if _target == "Ascend":
        return x.reshape(videos, frames, channels, pixels).transpose(0, 2, 3, 1)
    x = permute_rows(x.reshape(count * channels, pixels), (videos, frames, channels), (0, 2, 1))
    return x.reshape(videos, channels, frames, pixels)


def from_time(x, frames, height, width):
    """The inverse of `to_time`."""
    videos, channels = x.shape[:2]
    if _target == "Ascend":
        x = x.transpose(0, 3, 1, 2)
    else:
        x = permute_rows(x.reshape(-1, height * width), (videos, channels, frames), (0, 2, 1))
    return x.reshape(videos * frames, channels, height, width)


def time_conv_nchw(x, weight, bias):
    """(3, 1, 1) convolution on `to_time`'s map; weight (out, C, 3, 1, 1)."""
    out, channels = weight.shape[:2]
    if _target == "Ascend":
        return conv2d(x, weight.reshape(out, channels, 1, 3), bias, pad=(0, 0, 1, 1))
    return conv2d(x, weight.reshape(out, channels, 3, 1), bias, pad=(1, 1, 0, 0))


# --- attention -------------------------------------------------------------------------------------------------

def _attend(q, k, v):
    """Softmax attention of (batch, n, d) tensors whose q is already scaled; scores and softmax in float32."""
    scores = softmax(_bmm_t(q, k).astype(ms.float32))
    return _bmm(scores.astype(v.dtype), v)


def attention(q, k, v):
    """softmax(q k^T / sqrt(d)) v for (batch, heads, n, d) tensors, in slices that bound the score matrix's memory."""
    batch, heads, n, d = q.shape
    if _target == "Ascend" and q.dtype != ms.float32 and d % 16 == 0 and batch <= 2048 and n >= 256:
        return FlashAttentionScore(heads, scale_value=d ** -0.5, input_layout="BNSD")(q, k, v)[3]
    q = q.reshape(batch * heads, n, d) * d ** -0.5
    k = k.reshape(batch * heads, n, d)
    v = v.reshape(batch * heads, n, d)
    per_matrix = n * n * 4
    if batch * heads * per_matrix <= SCORE_BYTES:
        out = _attend(q, k, v)
    else:
        group = max(1, SCORE_BYTES // per_matrix)
        rows = min(n, max(1, SCORE_BYTES // (n * 4)))
        pieces = []
        for i in range(0, batch * heads, group):
            part = []
            for j in range(0, n, rows):
                part.append(_attend(q[i:i + group, j:j + rows], k[i:i + group], v[i:i + group]))
            pieces.append(ops.concat(part, 1) if len(part) > 1 else part[0])
        out = ops.concat(pieces, 0)
    return out.reshape(batch, heads, n, d)


def timestep_embedding(values, dim, max_period=10000.0):
    """Sinusoids of (n,) float values, cosines first: (n, dim) float32. `dim` must be even.

    Source: Ho et al. 2020 as used by the reference; the frequencies are a constant of the graph.
    """
    angles = values.astype(ms.float32).reshape(-1, 1) * _frequencies(dim, max_period)
    return ops.concat((ops.cos(angles), ops.sin(angles)), 1)


@constexpr
def _frequencies(dim, max_period):
    half = dim // 2
    return Tensor(np.exp(-np.log(max_period) * np.arange(half, dtype=np.float32) / half).reshape(1, half).astype(np.float32))


@constexpr
def frame_index(videos, frames):
    """0 .. frames-1 for each of `videos`: (videos * frames,) float32."""
    return Tensor(np.tile(np.arange(frames, dtype=np.float32), videos))


def split_heads(x, grid, heads, over_time):
    """(rows, C) -> (frames, heads, pixels, d), or (pixels, heads, frames, d) over time."""
    videos, frames, height, width = grid
    pixels, d = height * width, x.shape[1] // heads
    axes = (0, 2, 3, 1) if over_time else (0, 1, 3, 2)
    x = permute_rows(x.reshape(-1, d), (videos, frames, pixels, heads), axes)
    return x.reshape((videos * pixels, heads, frames, d) if over_time else (videos * frames, heads, pixels, d))


def merge_heads(x, grid, over_time):
    """The inverse of `split_heads`."""
    videos, frames, height, width = grid
    pixels, heads, d = height * width, x.shape[1], x.shape[3]
    if over_time:
        x = permute_rows(x.reshape(-1, d), (videos, pixels, heads, frames), (0, 3, 1, 2))
    else:
        x = permute_rows(x.reshape(-1, d), (videos, frames, heads, pixels), (0, 1, 3, 2))
    return x.reshape(-1, heads * d)
