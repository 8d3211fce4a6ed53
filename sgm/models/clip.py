"""The image tower of OpenCLIP (ViT) and the original's image preprocessing."""
from functools import lru_cache

import numpy as np
from mindspore import nn
from mindspore import ops as ms_ops

from sgm import ops
from sgm.models.blocks import LayerNorm, Linear, empty
from sgm.models.resampling import aligned_bicubic

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def _blur_matrix(size, sigma):
    """Return a Gaussian blur with reflected edges as a matrix (size, size).

    The kernel's length is the original's (kornia's).
    """
    length = max(int(4 * sigma), 3) // 2 * 2 + 1
    offset = np.arange(length) - length // 2
    weight = np.exp(-0.5 * (offset / sigma) ** 2)
    weight /= weight.sum()
    matrix = np.zeros((size, size))
    for tap, value in zip(offset, weight):
        index = np.abs(np.arange(size) + tap)
        index = np.where(index >= size, 2 * (size - 1) - index, index)
        np.add.at(matrix, (np.arange(size), index), value)
    return matrix


@lru_cache(maxsize=8)
def _resize_matrices(height, width, size, antialias):
    factors = height / size, width / size
    matrices = [aligned_bicubic(height, size), aligned_bicubic(width, size)]
    if antialias and max(factors) > 1:
        for i, (length, factor) in enumerate(zip((height, width), factors)):
            matrices[i] = matrices[i] @ _blur_matrix(length, max((factor - 1) / 2, 0.001))
    return tuple(matrix.astype(np.float32) for matrix in matrices)


def preprocess(image, size=224, antialias=True):
    """Return images (N, 3, size, size), normalized for CLIP, of (N, 3, H, W) float32 in [-1, 1].

    Runs on the host. As in the original, an image is blurred if it shrinks, and squeezed to a
    square (no crop). Blur and bicubic interpolation are linear in each direction, so each is one
    matrix.
    """
    rows, columns = _resize_matrices(image.shape[2], image.shape[3], size, antialias)
    small = np.matmul(np.matmul(rows, image), columns.T)
    return ((small + 1) / 2 - MEAN.reshape(3, 1, 1)) / STD.reshape(3, 1, 1)


class SelfAttention(nn.Cell):
    """Multi-head attention with the published joint projection."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = empty(3 * width, width)
        self.in_proj_bias = empty(3 * width)
        self.out_proj = Linear(width, width)

    def construct(self, x, count):
        """Attend within each of `count` images of tokens (rows, C)."""
        rows, width = x.shape
        qkv = ops.linear(x, self.in_proj_weight, self.in_proj_bias)
        qkv = qkv.reshape(count, rows // count, 3, self.heads, width // self.heads)
        qkv = qkv.transpose(2, 0, 3, 1, 4)
        out = ops.attention(qkv[0], qkv[1], qkv[2])
        return self.out_proj(out.transpose(0, 2, 1, 3).reshape(rows, width))


class Mlp(nn.Cell):
    """Linear, GELU, linear."""

    def __init__(self, width):
        super().__init__()
        self.c_fc = Linear(width, 4 * width)
        self.c_proj = Linear(4 * width, width)

    def construct(self, x):
        """Map (rows, C) to (rows, C)."""
        return self.c_proj(ops.gelu(self.c_fc(x)))


class ResidualBlock(nn.Cell):
    """Pre-norm transformer block."""

    def __init__(self, width, heads):
        super().__init__()
        self.ln_1 = LayerNorm(width)
        self.attn = SelfAttention(width, heads)
        self.ln_2 = LayerNorm(width)
        self.mlp = Mlp(width)

    def construct(self, x, count):
        """Map tokens (rows, C) of `count` images to the same shape."""
        x = x + self.attn(self.ln_1(x), count)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Cell):
    """The published `transformer.resblocks`."""

    def __init__(self, width, layers, heads):
        super().__init__()
        self.resblocks = nn.CellList([ResidualBlock(width, heads) for _ in range(layers)])

    def construct(self, x, count):
        """Map tokens (rows, C) of `count` images to the same shape."""
        for block in self.resblocks:
            x = block(x, count)
        return x


class PatchEmbedding(nn.Cell):
    """Convolution of stride = kernel = patch, without bias, as one product."""

    def __init__(self, width, patch):
        super().__init__()
        self.patch = patch
        self.weight = empty(width, 3, patch, patch)

    def construct(self, x):
        """Map (N, 3, S, S) to (N * patches, width)."""
        count, _, size, _ = x.shape
        side = size // self.patch
        x = x.reshape(count, 3, side, self.patch, side, self.patch).transpose(0, 2, 4, 1, 3, 5)
        x = x.reshape(count * side * side, 3 * self.patch * self.patch)
        return ops.linear(x, self.weight.reshape(self.weight.shape[0], -1))


class VisionTransformer(nn.Cell):
    """The image tower of a `sgm.config.model.ClipSpec`."""

    def __init__(self, spec):
        super().__init__()
        patches = (spec.image_size // spec.patch_size) ** 2
        self.class_embedding = empty(spec.width)
        self.positional_embedding = empty(patches + 1, spec.width)
        self.proj = empty(spec.width, spec.embed_dim)
        self.conv1 = PatchEmbedding(spec.width, spec.patch_size)
        self.ln_pre = LayerNorm(spec.width)
        self.transformer = Transformer(spec.width, spec.layers, spec.width // spec.head_width)
        self.ln_post = LayerNorm(spec.width)

    def construct(self, x):
        """Map (N, 3, S, S) from `preprocess` to (N, embed_dim), the projected class token."""
        count = x.shape[0]
        patches = self.conv1(x)
        width = patches.shape[1]
        first = self.class_embedding.reshape(1, 1, width).broadcast_to((count, 1, width))
        x = ms_ops.concat((first, patches.reshape(count, -1, width)), 1) + self.positional_embedding
        tokens = x.shape[1]
        x = self.transformer(self.ln_pre(x.reshape(count * tokens, width)), count)
        x = x.reshape(count, tokens, width)[:, 0]
        return ms_ops.matmul(self.ln_post(x), self.proj)
