"""The triplane transformer of TripoSR, which is not told a camera.

Source: Tochilkin et al. 2024 (arXiv 2403.02151). Tokens are rows (images * tokens, width).
"""
from mindspore import nn

from sgm.feedforward.layers.encoders import attend
from sgm.models.attention import FeedForward
from sgm.models.blocks import LayerNorm, Linear, TokenGroupNorm


class SplitAttention(nn.Cell):
    """The published `attn1` (of tokens to one another) and `attn2` (to those of the image)."""

    def __init__(self, width, context, heads):
        super().__init__()
        self.heads = heads
        self.to_q = Linear(width, width, bias=False)
        self.to_k = Linear(context, width, bias=False)
        self.to_v = Linear(context, width, bias=False)
        self.to_out = nn.CellList([Linear(width, width)])

    def construct(self, x, tokens, count):
        """Let x (rows, C) attend to tokens (rows, context), both of `count` images."""
        x = attend(self.to_q(x), self.to_k(tokens), self.to_v(tokens), count, self.heads)
        return self.to_out[0](x)


class BackboneBlock(nn.Cell):
    """Self-attention, cross-attention, feed-forward layers (GEGLU), each after a norm."""

    def __init__(self, width, context, heads):
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn1 = SplitAttention(width, width, heads)
        self.norm2 = LayerNorm(width)
        self.attn2 = SplitAttention(width, context, heads)
        self.norm3 = LayerNorm(width)
        self.ff = FeedForward(width)

    def construct(self, x, tokens, count):
        """Map tokens (rows, C) of `count` images; tokens: of the image."""
        normed = self.norm1(x)
        x = x + self.attn1(normed, normed, count)
        x = x + self.attn2(self.norm2(x), tokens, count)
        return x + self.ff(self.norm3(x))


class Backbone(nn.Cell):
    """The published `backbone`: a group norm over all tokens of an image, blocks, a residual."""

    def __init__(self, spec, context):
        super().__init__()
        width = spec.width
        self.norm = TokenGroupNorm(width, 32, eps=1e-6)
        self.proj_in = Linear(width, width)
        self.transformer_blocks = nn.CellList(
            [BackboneBlock(width, context, spec.heads) for _ in range(spec.layers)])
        self.proj_out = Linear(width, width)

    def construct(self, x, tokens, count):
        """Map tokens (rows, C) of `count` images; tokens: of the image."""
        h = self.proj_in(self.norm(x, count))
        for block in self.transformer_blocks:
            h = block(h, tokens, count)
        return self.proj_out(h) + x
