"""Spatial and temporal transformer blocks of the video UNet.

The context is a single token (the CLIP embedding), so softmax over it is 1 and cross-attention is
exactly `to_out(to_v(token))`: a vector per frame that does not depend on the latents.
`context_vectors` computes it once a run. Query, key and the norm before them stay as parameters
(the published file has them) but nothing reads them.
"""
from mindspore import nn

from sgm import ops
from sgm.models.blocks import (
    Embedding,
    Layer,
    LayerNorm,
    Linear,
    Mixer,
    TokenGroupNorm,
    add_per_frame,
)


class Attention(nn.Cell):
    """Multi-head self-attention, or the one-token cross-attention when `context` is given."""

    def __init__(self, width, heads, context=None):
        super().__init__()
        self.heads = heads
        self.to_q = Linear(width, width, bias=False)
        self.to_k = Linear(context or width, width, bias=False)
        self.to_v = Linear(context or width, width, bias=False)
        self.to_out = nn.CellList([Linear(width, width)])

    def construct(self, x, grid, over_time):
        """Attend within x (rows, C), over the pixels of a frame or over the frames of a pixel."""
        q = ops.split_heads(self.to_q(x), grid, self.heads, over_time)
        k = ops.split_heads(self.to_k(x), grid, self.heads, over_time)
        v = ops.split_heads(self.to_v(x), grid, self.heads, over_time)
        return self.to_out[0](ops.merge_heads(ops.attention(q, k, v), grid, over_time))

    def attend_token(self, token):
        """Return (frames, C), the attention of any query to its frame's token (frames, context)."""
        return self.to_out[0](self.to_v(token))


class GegluProjection(nn.Cell):
    """The published `net.0` of a feed-forward layer."""

    def __init__(self, width, inner):
        super().__init__()
        self.proj = Linear(width, 2 * inner)

    def construct(self, x):
        """Map (rows, C) to (rows, inner)."""
        return ops.geglu(x, self.proj.weight, self.proj.bias)


class FeedForward(nn.Cell):
    """GEGLU of four times the width."""

    def __init__(self, width):
        super().__init__()
        self.net = nn.CellList(
            [GegluProjection(width, 4 * width), nn.Identity(), Linear(4 * width, width)])

    def whole(self, x):
        """Map all of (rows, C) at once."""
        return self.net[2](self.net[0](x))

    def construct(self, x):
        """Map (rows, C) in slices that bound the memory of the hidden layer."""
        return ops.in_slices(self.whole, x, 4 * x.shape[1])


class TransformerBlock(nn.Cell):
    """Self-attention, one-token cross-attention, feed-forward; over time one more comes first."""

    def __init__(self, width, heads, context, over_time=False):
        super().__init__()
        self.over_time = over_time
        if over_time:
            self.norm_in = LayerNorm(width)
            self.ff_in = FeedForward(width)
        self.attn1 = Attention(width, heads)
        self.ff = FeedForward(width)
        self.attn2 = Attention(width, heads, context)
        self.norm1 = LayerNorm(width)
        self.norm2 = LayerNorm(width)
        self.norm3 = LayerNorm(width)

    def construct(self, x, vectors, grid):
        """Map x (rows, C); vectors (frames, C) are the cross-attention's output."""
        if self.over_time:
            x = x + self.ff_in(self.norm_in(x))
        x = x + self.attn1(self.norm1(x), grid, self.over_time)
        x = add_per_frame(x, vectors)
        return x + self.ff(self.norm3(x))


class VideoTransformer(Layer):
    """The published `SpatialVideoTransformer` of depth 1: over pixels, then over frames, mixed."""

    def __init__(self, width, head_width, context, groups):
        super().__init__()
        heads = width // head_width
        self.width = width
        self.offset = 0                 # its first column in `prepared`, set by the UNet
        self.norm = TokenGroupNorm(width, groups, eps=1e-6)
        self.proj_in = Linear(width, width)
        self.transformer_blocks = nn.CellList([TransformerBlock(width, heads, context)])
        self.time_stack = nn.CellList([TransformerBlock(width, heads, context, over_time=True)])
        self.time_pos_embed = Embedding(width, 4 * width, width)
        self.time_mixer = Mixer()
        self.proj_out = Linear(width, width)

    def context_vectors(self, token, first_token, frame_index):
        """Return what the block adds to each frame: spatial, temporal, position, each (F, C).

        None of it depends on the latents. token (F, D): each frame's context; first_token (F, D):
        that of its video's first frame, which is what the original attends to over time;
        frame_index (F,).
        """
        spatial = self.transformer_blocks[0].attn2.attend_token(token)
        temporal = self.time_stack[0].attn2.attend_token(first_token)
        sinusoids = ops.timestep_embedding(frame_index, self.width).astype(token.dtype)
        position = self.time_pos_embed(sinusoids)
        return spatial, temporal, position

    def construct(self, h, emb, prepared, image_only, grid):
        """Map (rows, C); `prepared` has the block's three vectors side by side from `offset` on."""
        a, c = self.offset, self.width
        spatial, temporal = prepared[:, a:a + c], prepared[:, a + c:a + 2 * c]
        position = prepared[:, a + 2 * c:a + 3 * c]
        x = self.norm(h, grid[0] * grid[1])
        x = self.transformer_blocks[0](self.proj_in(x), spatial, grid)
        mixed = self.time_stack[0](add_per_frame(x, position), temporal, grid)
        return self.proj_out(self.time_mixer(x, mixed, image_only)) + h
