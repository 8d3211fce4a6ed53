"""The decoder: an embedding to the latent volume 8^3 (G1), and on to density and color (G2).

Source: Ntavelis et al. 2023 (arXiv 2307.05445), section 3.1 and appendix B.1. Volumes are token
rows (see `sgm.ops.convolution3d`), `count` of them one after the other. Norms are group norms: the
paper's batch norms have the same parameters, but their statistics in a small batch are noise, and
latents must be decoded with the statistics with which they were computed.
"""
from mindspore import nn
from mindspore import ops as P

from sgm import ops
from sgm.config.autodecoding import FIRST_SIDE, LATENT_SIDE
from sgm.models.blocks import Conv, Linear, TokenGroupNorm
from sgm.ops import convolution3d


def groups_of(width, most):
    """Return the number of groups of a norm: up to `most`, of 4 channels at least."""
    return max(n for n in range(1, min(most, max(1, width // 4)) + 1) if width % n == 0)


class VolumeConv(Conv):
    """A 3^3 convolution of volumes; doubles: of twice their side."""

    def __init__(self, width_in, width_out, doubles=False):
        super().__init__(width_in, width_out, 3, 3, 3)
        self.doubles = doubles

    def construct(self, x, count):
        """Map `count` volumes (rows, in) to (rows, out), or (8 * rows, out) of doubled ones."""
        if self.doubles:
            return convolution3d.doubled_conv3x3x3(x, self.weight, self.bias, count)
        return convolution3d.conv3x3x3(x, self.weight, self.bias, count)


class VolumeAttention(nn.Cell):
    """Self-attention of the voxels of a volume, added to it; it starts as nothing."""

    def __init__(self, width, head_width, groups):
        super().__init__()
        self.heads = width // head_width
        self.norm = TokenGroupNorm(width, groups)
        self.to_q = Linear(width, width)
        self.to_k = Linear(width, width)
        self.to_v = Linear(width, width)
        self.proj_out = Linear(width, width)

    def construct(self, x, count):
        """Map `count` volumes (rows, C)."""
        grid = (1, count, x.shape[0] // count, 1)
        h = self.norm(x, count)
        q = ops.split_heads(self.to_q(h), grid, self.heads, False)
        k = ops.split_heads(self.to_k(h), grid, self.heads, False)
        v = ops.split_heads(self.to_v(h), grid, self.heads, False)
        return x + self.proj_out(ops.merge_heads(ops.attention(q, k, v), grid, False))


class ResidualBlock(nn.Cell):
    """Two 3^3 convolutions with norms beside a 1^3 convolution, then ReLU.

    doubles: of a volume that is doubled before, by nearest neighbor.
    """

    def __init__(self, width_in, width_out, groups, rectified=True, doubles=False):
        super().__init__()
        groups = groups_of(width_out, groups)
        self.rectified, self.doubles = rectified, doubles
        self.conv1 = VolumeConv(width_in, width_out, doubles)
        self.norm1 = TokenGroupNorm(width_out, groups)
        self.conv2 = VolumeConv(width_out, width_out)
        self.norm2 = TokenGroupNorm(width_out, groups)
        self.skip = Linear(width_in, width_out)

    def construct(self, x, count):
        """Map `count` volumes (rows, in) to (rows, out), or (8 * rows, out) of doubled ones."""
        h = P.relu(self.norm1(self.conv1(x, count), count))
        x = self.skip(x)
        if self.doubles:
            x = convolution3d.double_volumes(x, count)
        h = self.norm2(self.conv2(h, count), count) + x
        return P.relu(h) if self.rectified else h


class UpBlock(nn.Cell):
    """Doubles a volume's side and halves its channels: residual blocks, then attention if wanted.

    rectified: whether the last block ends with a ReLU. The latent's does not: with it half of the
    numbers to be diffused would be 0, and the paper's figure 9 shows a bell.
    """

    def __init__(self, spec, side, rectified=True):
        super().__init__()
        width, out = 2 * spec.width(side), spec.width(side)
        self.blocks = nn.CellList([
            ResidualBlock(out if k else width, out, spec.norm_groups,
                          rectified or k < spec.depth - 1, doubles=k == 0)
            for k in range(spec.depth)])
        self.attention = None
        if side in spec.attention:
            self.attention = VolumeAttention(out, spec.head_width, groups_of(out, spec.norm_groups))

    def construct(self, x, count):
        """Map `count` volumes (rows, C) to (8 rows, C / 2)."""
        for block in self.blocks:
            x = block(x, count)
        return x if self.attention is None else self.attention(x, count)


class LatentDecoder(nn.Cell):
    """G1: embeddings to latent volumes."""

    def __init__(self, spec):
        super().__init__()
        self.channels = spec.volume.channels
        self.linear = Linear(spec.embedding.length, FIRST_SIDE ** 3 * self.channels)
        self.up = UpBlock(spec.volume, LATENT_SIDE, rectified=False)

    def construct(self, embeddings):
        """Map embeddings (B, length) to latents (B * 8^3, C)."""
        x = self.linear(embeddings).reshape(-1, self.channels)
        return self.up(x, embeddings.shape[0])


class RadianceDecoder(nn.Cell):
    """G2: latent volumes to raw density and color (and what `VolumeSpec.extra` adds)."""

    def __init__(self, spec):
        super().__init__()
        volume = spec.volume
        self.ups = nn.CellList([
            UpBlock(volume, side) for side in volume.sides if side > LATENT_SIDE])
        width = volume.width(volume.side)
        self.norm = TokenGroupNorm(width, groups_of(width, volume.norm_groups))
        self.out = Linear(width, 4 + volume.extra)

    def construct(self, latents, count):
        """Map latents (count * 8^3, C) to (count * side^3, 4 and more), before activation."""
        x = latents
        for up in self.ups:
            x = up(x, count)
        return self.out(self.norm(x, count))
