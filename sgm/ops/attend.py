"""Attention with its heads, and the sinusoids of times and frame numbers."""
import mindspore as ms
import numpy as np
from mindspore import Tensor, ops
from mindspore.ops import operations as P
from mindspore.ops.operations.nn_ops import FlashAttentionScore
from mindspore.ops.primitive import constexpr

from sgm.ops.activations import softmax
from sgm.ops.device import on_ascend
from sgm.ops.tokens import bmm, bmm_t, depend, equal_slices, in_turn, permute_rows

# Attention is cut into slices whose score matrix stays below this. A device gets fewer slices: it
# computes large products better, and the compiler's time grows faster than their number (svd's
# gradient in float32: over 25 minutes, or 3).
SCORE_BYTES = 256 << 20
ASCEND_SCORE_BYTES = 2 << 30


def _score_bytes():
    return ASCEND_SCORE_BYTES if on_ascend() else SCORE_BYTES


def _attend(q, k, v):
    """Return the attention of (batch, n, d) tensors whose q is already scaled.

    Scores and softmax are float32.
    """
    scores = softmax(bmm_t(q, k).astype(ms.float32))
    return bmm(scores.astype(v.dtype), v)


def _attend_rows(q, k, v):
    """Apply `_attend` to as many rows of q at a time as keep the scores below the bound."""
    count, n, _ = q.shape
    rows = max(1, _score_bytes() // (count * k.shape[1] * 4))
    if rows >= n:
        return _attend(q, k, v)
    pieces = ()
    for i in range(0, n, rows):
        if pieces:
            q = depend(q, pieces[-1])
        pieces = pieces + (_attend(q[:, i:i + rows], k, v),)
    return ops.concat(pieces, 1)


def attention(q, k, v):
    """Return softmax(q k^T / sqrt(d)) v for q (batch, heads, n, d), k and v (batch, heads, m, d).

    It is computed in slices that bound the memory of the score matrix.
    """
    batch, heads, n, d = q.shape
    if on_ascend() and q.dtype != ms.float32 and d % 16 == 0 and batch <= 2048 and n >= 256:
        flash = FlashAttentionScore(heads, scale_value=d ** -0.5, input_layout="BNSD")
        return flash(q, k, v)[3]
    q = q.reshape(batch * heads, n, d) * d ** -0.5
    m = k.shape[2]
    k = k.reshape(batch * heads, m, d)
    v = v.reshape(batch * heads, m, d)
    slices = equal_slices(batch * heads, max(1, _score_bytes() // (n * m * 4)))
    if slices == 1:
        out = _attend_rows(q, k, v)
    else:
        split = P.Split(0, slices)
        out = ops.concat(in_turn(_attend_rows, (split(q), split(k), split(v)), 0, slices, q), 0)
    return out.reshape(batch, heads, n, d)


def timestep_embedding(values, dim, max_period=10000.0):
    """Return sinusoids of (n,) float values, cosines first: (n, dim) float32; `dim` is even.

    Source: Ho et al. 2020 as the original uses it; the frequencies are a constant of the graph.
    """
    angles = values.astype(ms.float32).reshape(-1, 1) * _frequencies(dim, max_period)
    return ops.concat((ops.cos(angles), ops.sin(angles)), 1)


@constexpr
def _frequencies(dim, max_period):
    half = dim // 2
    frequencies = np.exp(-np.log(max_period) * np.arange(half, dtype=np.float32) / half)
    return Tensor(frequencies.reshape(1, half).astype(np.float32))


@constexpr
def frame_index(videos, frames):
    """Return 0 .. frames-1 for each of `videos`: (videos * frames,) float32."""
    return Tensor(np.tile(np.arange(frames, dtype=np.float32), videos))


def split_heads(x, grid, heads, over_time):
    """Return (rows, C) as (frames, heads, pixels, d), over time as (pixels, heads, frames, d)."""
    videos, frames, height, width = grid
    pixels, d = height * width, x.shape[1] // heads
    axes = (0, 2, 3, 1) if over_time else (0, 1, 3, 2)
    x = permute_rows(x.reshape(-1, d), (videos, frames, pixels, heads), axes)
    if over_time:
        return x.reshape((videos * pixels, heads, frames, d))
    return x.reshape((videos * frames, heads, pixels, d))


def merge_heads(x, grid, over_time):
    """Undo `split_heads`."""
    videos, frames, height, width = grid
    pixels, heads, d = height * width, x.shape[1], x.shape[3]
    if over_time:
        x = permute_rows(x.reshape(-1, d), (videos, pixels, heads, frames), (0, 3, 1, 2))
    else:
        x = permute_rows(x.reshape(-1, d), (videos, frames, heads, pixels), (0, 1, 3, 2))
    return x.reshape(-1, heads * d)
