"""The autoencoder of Stable Diffusion: encoder and frame-by-frame decoder, in NCHW and float32.

Names and shapes are the published ones (`encoder.down.0.block.1.conv1.weight` ...). Group norms use
eps 1e-6.
"""
from mindspore import nn

from sgm import ops
from sgm.models.architecture import DOWNSAMPLE, RESIDUAL, UPSAMPLE, decoder_layers, encoder_layers
from sgm.models.blocks import Conv, Norm


class Conv2d(Conv):
    """Convolution of stride 1 with a k x k kernel (k odd) that keeps the size."""

    def __init__(self, width_in, width_out, kernel=3):
        super().__init__(width_in, width_out, kernel, kernel)
        self.pad = (kernel // 2,) * 4

    def construct(self, x):
        """Map (N, in, h, w) to (N, out, h, w)."""
        return ops.conv2d(x, self.weight, self.bias, pad=self.pad)


class GroupNorm(Norm):
    """Group norm of NCHW maps."""

    def __init__(self, width, groups, eps=1e-6):
        super().__init__(width)
        self.norm = ops.group_norm_of(groups, eps)

    def construct(self, x):
        """Normalize (N, C, ...) over the channels of a group and all that follows."""
        return ops.group_norm_nchw(x, self.weight, self.bias, self.norm)


class ResnetBlock(nn.Cell):
    """Norm, SiLU, convolution, twice, and a skip connection.

    It is called with `frames`, which only the temporal decoder's block in its place reads.
    """

    def __init__(self, width_in, width_out, groups):
        super().__init__()
        self.norm1 = GroupNorm(width_in, groups)
        self.conv1 = Conv2d(width_in, width_out)
        self.norm2 = GroupNorm(width_out, groups)
        self.conv2 = Conv2d(width_out, width_out)
        self.nin_shortcut = Conv2d(width_in, width_out, 1) if width_in != width_out else None

    def residual(self, x):
        """Map (N, in, h, w) to (N, out, h, w), the skip connection included."""
        h = self.conv1(ops.silu(self.norm1(x)))
        h = self.conv2(ops.silu(self.norm2(h)))
        if self.nin_shortcut is not None:
            x = self.nin_shortcut(x)
        return x + h

    def construct(self, x, frames):
        """Map (N, in, h, w) to (N, out, h, w), frame by frame."""
        return self.residual(x)


def _project(tokens, weight, bias):
    """Apply a 1 x 1 convolution to tokens (rows, C)."""
    width = weight.shape[0]
    return ops.linear(tokens, weight.reshape(width, width), bias)


class AttentionBlock(nn.Cell):
    """Single-head self-attention over the pixels of a map."""

    def __init__(self, width, groups):
        super().__init__()
        self.norm = GroupNorm(width, groups)
        self.q = Conv(width, width, 1, 1)
        self.k = Conv(width, width, 1, 1)
        self.v = Conv(width, width, 1, 1)
        self.proj_out = Conv(width, width, 1, 1)

    def construct(self, x):
        """Attend within each map of (N, C, h, w)."""
        count, width, rows, columns = x.shape
        pixels = rows * columns
        tokens = self.norm(x).reshape(count, width, pixels).transpose(0, 2, 1)
        tokens = tokens.reshape(count * pixels, width)
        # Not layer by layer in a method: MindSpore 2.7 cannot compile a gradient of weights of a
        # Cell that is an argument.
        heads = count, 1, pixels, width
        q = _project(tokens, self.q.weight, self.q.bias).reshape(heads)
        k = _project(tokens, self.k.weight, self.k.bias).reshape(heads)
        v = _project(tokens, self.v.weight, self.v.bias).reshape(heads)
        attended = ops.attention(q, k, v).reshape(count * pixels, width)
        h = _project(attended, self.proj_out.weight, self.proj_out.bias)
        return x + h.reshape(count, pixels, width).transpose(0, 2, 1).reshape(x.shape)


class Downsample(nn.Cell):
    """Convolution of stride 2, padded below and on the right only."""

    def __init__(self, width):
        super().__init__()
        self.conv = Conv(width, width, 3, 3)

    def construct(self, x):
        """Map (N, C, h, w) to (N, C, h / 2, w / 2)."""
        return ops.conv2d(x, self.conv.weight, self.conv.bias, stride=2, pad=(0, 1, 0, 1))


class Upsample(nn.Cell):
    """Nearest doubling, then a convolution."""

    def __init__(self, width):
        super().__init__()
        self.conv = Conv2d(width, width)

    def construct(self, x):
        """Map (N, C, h, w) to (N, C, 2 h, 2 w)."""
        return self.conv(ops.upsample_nchw(x))


class Level(nn.Cell):
    """One resolution: residual blocks (of the class `block`) and the change to the next.

    layers: its `sgm.models.architecture.Layer`s.
    """

    def __init__(self, layers, block, groups):
        super().__init__()
        changes = {layer.kind: layer.width_out for layer in layers}
        self.block = nn.CellList([block(layer.width_in, layer.width_out, groups)
                                  for layer in layers if layer.kind == RESIDUAL])
        self.downsample = Downsample(changes[DOWNSAMPLE]) if DOWNSAMPLE in changes else None
        self.upsample = Upsample(changes[UPSAMPLE]) if UPSAMPLE in changes else None

    def construct(self, x, frames):
        """Map (N, in, h, w) to (N, out, h', w')."""
        for block in self.block:
            x = block(x, frames)
        if self.downsample is not None:
            x = self.downsample(x)
        if self.upsample is not None:
            x = self.upsample(x)
        return x


class Middle(nn.Cell):
    """Block, attention, block."""

    def __init__(self, width, block, groups):
        super().__init__()
        self.block_1 = block(width, width, groups)
        self.attn_1 = AttentionBlock(width, groups)
        self.block_2 = block(width, width, groups)

    def construct(self, x, frames):
        """Map (N, C, h, w) to the same shape."""
        return self.block_2(self.attn_1(self.block_1(x, frames)), frames)


def levels(layers, part, block, groups):
    """Return the `Level`s of `part` ("down" or "up") by number, out of a coder's layers."""
    found = {}
    for layer in layers:
        if layer.key.startswith(part + "."):
            found.setdefault(int(layer.key.split(".")[1]), []).append(layer)
    return nn.CellList([Level(found[number], block, groups) for number in sorted(found)])


class Encoder(nn.Cell):
    """The encoder of a `sgm.config.model.VaeSpec`."""

    def __init__(self, spec):
        super().__init__()
        layers, groups = encoder_layers(spec), spec.norm_groups
        stem, head = layers[0], layers[-1]
        self.conv_in = Conv2d(stem.width_in, stem.width_out)
        self.down = levels(layers, "down", ResnetBlock, groups)
        self.mid = Middle(head.width_in, ResnetBlock, groups)
        self.norm_out = GroupNorm(head.width_in, groups)
        self.conv_out = Conv2d(head.width_in, head.width_out)

    def features(self, x):
        """Return what the last convolution takes, (N, C, h, w)."""
        h = self.conv_in(x)
        for level in self.down:
            h = level(h, 1)
        return ops.silu(self.norm_out(self.mid(h, 1)))

    def construct(self, x):
        """Map images (N, 3, H, W) in [-1, 1] to moments (N, 2 z, h, w): mean, then log variance."""
        return self.conv_out(self.features(x))


class Decoder(nn.Cell):
    """The decoder of a `sgm.config.model.VaeSpec`, frame by frame."""

    block, last = ResnetBlock, Conv2d           # the classes of a residual block, of `conv_out`

    def __init__(self, spec):
        super().__init__()
        layers, groups = decoder_layers(spec), spec.norm_groups
        stem, head = layers[0], layers[-1]
        self.conv_in = Conv2d(stem.width_in, stem.width_out)
        self.mid = Middle(stem.width_out, self.block, groups)
        self.up = levels(layers, "up", self.block, groups)
        self.norm_out = GroupNorm(head.width_in, groups)
        self.conv_out = self.last(head.width_in, head.width_out)

    def features(self, z, frames):
        """Return what the last convolution takes, (N, C, H, W)."""
        h = self.mid(self.conv_in(z), frames)
        for i in range(len(self.up)):
            h = self.up[len(self.up) - 1 - i](h, frames)
        return ops.silu(self.norm_out(h))

    def construct(self, z, frames=1):
        """Map unscaled latents (N, z, h, w) to (N, 3, H, W); `frames` is ignored."""
        return self.conv_out(self.features(z, frames))
