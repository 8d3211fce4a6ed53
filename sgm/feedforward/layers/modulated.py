"""The triplane transformer of VFusion3D and OpenLRM: blocks whose norms the camera modulates.

Source: Hong et al., "LRM", ICLR 2024 (arXiv 2311.04400), section 3. Tokens are rows
(images * tokens, width).
"""
from mindspore import nn

from sgm import ops
from sgm.feedforward.layers.encoders import attend
from sgm.models.blocks import LayerNorm, Linear, empty


class CameraEmbedder(nn.Cell):
    """The published `camera_embedder`: linear, SiLU, linear."""

    def __init__(self, width):
        super().__init__()
        self.mlp = nn.CellList([Linear(16, width), nn.Identity(), Linear(width, width)])

    def construct(self, camera):
        """Map cameras (B, 16) as `sgm.feedforward.rays` has them to (B, width)."""
        return self.mlp[2](ops.silu(self.mlp[0](camera)))


class ModulatedNorm(nn.Cell):
    """Layer norm whose result is scaled and shifted by what the camera gives."""

    def __init__(self, width, camera_width):
        super().__init__()
        self.norm = LayerNorm(width, 1e-6)
        self.mlp = nn.CellList([nn.Identity(), Linear(camera_width, 2 * width)])

    def construct(self, x, camera):
        """Normalize tokens (rows, C); camera (B, D) is the embedded one, through SiLU."""
        rows, width = x.shape
        both = self.mlp[1](camera)
        shift, scale = both[:, :width], both[:, width:]
        return self.norm(x) * ops.repeat_rows(1 + scale, rows) + ops.repeat_rows(shift, rows)


class CrossAttention(nn.Cell):
    """Attention to the image's tokens, without biases.

    As PyTorch does, one parameter holds the three projections if both widths are equal, and three
    do otherwise.
    """

    def __init__(self, width, context, heads):
        super().__init__()
        self.heads, self.joint = heads, width == context
        if self.joint:
            self.in_proj_weight = empty(3 * width, width)
        else:
            self.q_proj_weight = empty(width, width)
            self.k_proj_weight = empty(width, context)
            self.v_proj_weight = empty(width, context)
        self.out_proj = Linear(width, width, bias=False)

    def construct(self, x, tokens, count):
        """Let x (rows, C) attend to tokens (image rows, context), both of `count` images."""
        width = x.shape[1]
        if self.joint:
            weight = self.in_proj_weight
            q, k, v = weight[:width], weight[width:2 * width], weight[2 * width:]
        else:
            q, k, v = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        x = attend(ops.linear(x, q), ops.linear(tokens, k), ops.linear(tokens, v), count,
                   self.heads)
        return self.out_proj(x)


class SelfAttention(nn.Cell):
    """Attention of the triplane's tokens to one another, without biases."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = empty(3 * width, width)
        self.out_proj = Linear(width, width, bias=False)

    def construct(self, x, count):
        """Attend within each of `count` images of tokens (rows, C)."""
        width = x.shape[1]
        qkv = ops.linear(x, self.in_proj_weight)
        x = attend(qkv[:, :width], qkv[:, width:2 * width], qkv[:, 2 * width:], count, self.heads)
        return self.out_proj(x)


class ModulatedBlock(nn.Cell):
    """Cross-attention, self-attention and feed-forward layers, each after a modulated norm."""

    def __init__(self, spec, context):
        super().__init__()
        width = spec.width
        self.norm1 = ModulatedNorm(width, spec.camera_width)
        self.cross_attn = CrossAttention(width, context, spec.heads)
        self.norm2 = ModulatedNorm(width, spec.camera_width)
        self.self_attn = SelfAttention(width, spec.heads)
        self.norm3 = ModulatedNorm(width, spec.camera_width)
        # what the published Sequential has at 1 and 2 has no weights
        self.mlp = nn.CellList([Linear(width, 4 * width), nn.Identity(), nn.Identity(),
                                Linear(4 * width, width)])

    def forward(self, x):
        """Map (rows, C) by the feed-forward layers."""
        return self.mlp[3](ops.gelu(self.mlp[0](x)))

    def construct(self, x, tokens, camera, count):
        """Map tokens (rows, C) of `count` images; tokens, camera: what they are conditioned on."""
        x = x + self.cross_attn(self.norm1(x, camera), tokens, count)
        x = x + self.self_attn(self.norm2(x, camera), count)
        return x + ops.in_slices(self.forward, self.norm3(x, camera), 4 * x.shape[1])
