"""ADM's UNet in three dimensions: the denoiser of latent volumes.

Source: Dhariwal & Nichol 2021 (arXiv 2105.05233), with scale-shift norms and residual blocks that
halve and double; Ntavelis et al. 2023 (arXiv 2307.05445), section 3.3 and table 5. Volumes are
token rows, see `sgm.ops.convolution3d`.
"""
from mindspore import nn
from mindspore import ops as P

from sgm import ops
from sgm.autodecoder.volumes import VolumeAttention, VolumeConv, groups_of
from sgm.models.blocks import Embedding, Linear, TokenGroupNorm
from sgm.ops import convolution3d

KEEP, HALVE, DOUBLE = "keep", "halve", "double"


class ConditionAttention(nn.Cell):
    """Attention of a volume's voxels to the tokens of a condition, added to it; starts as nothing.

    Of a single token, whatever it is asked, the answer is its value: there are no questions then.
    """

    def __init__(self, width, head_width, groups, condition):
        super().__init__()
        self.tokens, tokens_width = condition.shape
        self.heads = width // head_width
        self.norm = self.to_q = self.to_k = None
        if self.tokens > 1:
            self.norm = TokenGroupNorm(width, groups)
            self.to_q = Linear(width, width)
            self.to_k = Linear(tokens_width, width)
        self.to_v = Linear(tokens_width, width)
        self.proj_out = Linear(width, width)

    def construct(self, x, tokens, count):
        """Map `count` volumes (rows, C); tokens (count * tokens, their width)."""
        value = self.to_v(tokens)
        if self.to_q is None:
            return x + ops.repeat_rows(self.proj_out(value), x.shape[0])
        voxels, words = (1, count, x.shape[0] // count, 1), (1, count, self.tokens, 1)
        q = ops.split_heads(self.to_q(self.norm(x, count)), voxels, self.heads, False)
        k = ops.split_heads(self.to_k(tokens), words, self.heads, False)
        v = ops.split_heads(value, words, self.heads, False)
        return x + self.proj_out(ops.merge_heads(ops.attention(q, k, v), voxels, False))


class DenoisingBlock(nn.Cell):
    """A residual block that the noise level scales and shifts, then attention if wanted.

    resize: whether the volume is halved or doubled on the way. It starts as the identity but for
    that and a change of width. Where it attends to itself it also attends to a condition.
    """

    def __init__(self, width_in, width_out, embedding, spec, attends=False, resize=KEEP):
        super().__init__()
        groups = spec.norm_groups
        self.resize = resize
        self.norm1 = TokenGroupNorm(width_in, groups_of(width_in, groups))
        self.conv1 = VolumeConv(width_in, width_out, resize == DOUBLE)
        self.emb = Linear(embedding, 2 * width_out)
        self.norm2 = TokenGroupNorm(width_out, groups_of(width_out, groups))
        self.zero_conv = VolumeConv(width_out, width_out)
        self.skip = Linear(width_in, width_out) if width_in != width_out else None
        self.attention = self.condition = None
        if attends:
            sizes = width_out, spec.head_width, groups_of(width_out, groups)
            self.attention = VolumeAttention(*sizes)
            if spec.condition.kind:
                self.condition = ConditionAttention(*sizes, spec.condition)

    def resized(self, x, count):
        """Return the volumes halved, doubled or as they are."""
        if self.resize == HALVE:
            return convolution3d.halve_volumes(x, count)
        if self.resize == DOUBLE:
            return convolution3d.double_volumes(x, count)
        return x

    def construct(self, x, emb, count, tokens=None):
        """Map `count` volumes (rows, in); emb (count, E) is already through SiLU.

        tokens: see `ConditionAttention`.
        """
        h = ops.silu(self.norm1(x, count))
        h = self.conv1(h if self.resize == DOUBLE else self.resized(h, count), count)
        rows, width = h.shape
        change = self.emb(emb)
        scale = ops.repeat_rows(change[:, :width] + 1, rows)
        shift = ops.repeat_rows(change[:, width:], rows)
        h = self.zero_conv(ops.silu(self.norm2(h, count) * scale + shift), count)
        x = self.resized(x, count)
        x = h + (x if self.skip is None else self.skip(x))
        if self.attention is not None:
            x = self.attention(x, count)
        return x if self.condition is None else self.condition(x, tokens, count)


class UNet3D(nn.Cell):
    """Predicts from noisy latents (count * 8^3, C), which EDM's preconditioning has scaled."""

    def __init__(self, spec, latent_width):
        super().__init__()
        width = spec.channels
        embedding = 4 * width
        self.width = width
        self.time_embed = Embedding(width, embedding, embedding)
        self.stem = VolumeConv(latent_width, width * spec.multipliers[0])
        widths = [width * factor for factor in spec.multipliers]
        below, above, skips = [], [], [widths[0]]
        here = widths[0]

        def block(before, after, side, resize=KEEP):
            attends = side in spec.attention and resize == KEEP
            return DenoisingBlock(before, after, embedding, spec, attends, resize)

        for level, (side, after) in enumerate(zip(spec.sides, widths)):
            if level:
                below.append(block(here, here, side, HALVE))
                skips.append(here)
            for _ in range(spec.depth):
                below.append(block(here, after, side))
                here = after
                skips.append(here)
        self.below = nn.CellList(below)
        self.middle = nn.CellList([
            DenoisingBlock(here, here, embedding, spec, attends=True),
            DenoisingBlock(here, here, embedding, spec)])
        for level in reversed(range(len(widths))):
            for _ in range(spec.depth + 1):
                above.append(block(here + skips.pop(), widths[level], spec.sides[level]))
                here = widths[level]
            if level:
                above.append(block(here, here, spec.sides[level - 1], DOUBLE))
        self.above = nn.CellList(above)
        self.norm = TokenGroupNorm(here, groups_of(here, spec.norm_groups))
        self.zero_conv = VolumeConv(here, latent_width)

    def construct(self, x, noise, tokens=None):
        """Return the prediction (count * 8^3, C); noise (count,): the level as EDM encodes it.

        tokens (count * tokens, width): of the conditions, where the spec has some.
        """
        count = noise.shape[0]
        emb = ops.silu(self.time_embed(ops.timestep_embedding(noise, self.width)))
        x = self.stem(x, count)
        kept = (x,)
        for block in self.below:
            x = block(x, emb, count, tokens)
            kept = kept + (x,)
        for block in self.middle:
            x = block(x, emb, count, tokens)
        place = len(kept) - 1
        for block in self.above:
            if block.resize == KEEP:
                x = P.concat((x, kept[place]), 1)
                place = place - 1
            x = block(x, emb, count, tokens)
        return self.zero_conv(ops.silu(self.norm(x, count)), count)
