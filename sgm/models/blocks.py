"""Parameter holders with the published names, and the residual blocks of the video UNet.

Source: Blattmann et al. 2023 (arXiv 2311.15127), app. D: each block of Stable Diffusion's UNet is
followed by one over time, and a learned factor mixes the two. Activations are tokens (`sgm.ops`).
"""
import mindspore as ms
from mindspore import Parameter, nn
from mindspore.common.initializer import initializer

from sgm import ops


def empty(*shape):
    """Return a Parameter without memory, for loaded weights or `sgm.models.initialization`."""
    return Parameter(initializer("zeros", shape, ms.float32))


class Layer(nn.Cell):
    """A layer of a `Block`, called as (h, emb, prepared, image_only, grid).

    h (rows, C) are tokens; emb (F, E) is the step's embedding, already through SiLU; prepared
    (F, K) holds the context vectors of all transformers; image_only (F,) is 1 for image-only
    frames; grid = (videos, frames, height, width), F = videos * frames.
    """

    def resize(self, grid):
        """Return the grid of the layer's output."""
        return grid


class Block(nn.SequentialCell):
    """The published `input_blocks.N`, `middle_block`, `output_blocks.N`: layers in sequence."""

    def construct(self, h, emb, prepared, image_only, grid):
        """Return the tokens and their grid."""
        for layer in self.cell_list:
            h = layer(h, emb, prepared, image_only, grid)
            grid = layer.resize(grid)
        return h, grid


class Linear(nn.Cell):
    """y = x W^T + b; weight (out, in)."""

    def __init__(self, width_in, width_out, bias=True):
        super().__init__()
        self.weight = empty(width_out, width_in)
        self.bias = empty(width_out) if bias else None

    def construct(self, x):
        """Map (rows, in) to (rows, out)."""
        return ops.linear(x, self.weight, self.bias)


class Conv(nn.Cell):
    """A convolution's weight (out, in, *kernel) and bias; the caller chooses its form."""

    def __init__(self, width_in, width_out, *kernel):
        super().__init__()
        self.weight = empty(width_out, width_in, *kernel)
        self.bias = empty(width_out)


class Norm(nn.Cell):
    """The gain and offset of a group or layer norm over `width` channels."""

    def __init__(self, width):
        super().__init__()
        self.weight = empty(width)
        self.bias = empty(width)


class TokenGroupNorm(Norm):
    """Group norm of tokens."""

    def __init__(self, width, groups, eps=1e-5):
        super().__init__(width)
        self.groups, self.eps = groups, eps

    def construct(self, x, batch):
        """Normalize (rows, width) over each of `batch` equal runs of rows (frames or videos)."""
        return ops.group_norm(x, self.weight, self.bias, batch, self.groups, self.eps)


class LayerNorm(Norm):
    """Layer norm over channels."""

    def __init__(self, width, eps=1e-5):
        super().__init__(width)
        self.eps = eps

    def construct(self, x):
        """Normalize each row of (rows, width)."""
        return ops.layer_norm(x, self.weight, self.bias, self.eps)


class Mixer(nn.Cell):
    """Learned mix of a spatial and a temporal result; image-only frames keep the spatial one."""

    def __init__(self):
        super().__init__()
        self.mix_factor = empty(1)

    def construct(self, spatial, temporal, image_only):
        """Mix two (rows, C) arrays; image_only (frames,) is 1 for image-only frames."""
        alpha = ms.ops.sigmoid(self.mix_factor.astype(ms.float32))
        alpha = (image_only + (1.0 - image_only) * alpha).astype(spatial.dtype)
        alpha = ops.depend(alpha, spatial)
        alpha = alpha.reshape(-1, 1).broadcast_to((image_only.shape[0], spatial.shape[1]))
        return ops.mix(spatial, temporal, alpha)


class Embedding(nn.SequentialCell):
    """Linear, SiLU, Linear: `time_embed`, `label_emb` and `time_pos_embed` (keys 0 and 2)."""

    def __init__(self, width_in, width, width_out):
        super().__init__(Linear(width_in, width), nn.SiLU(), Linear(width, width_out))


class ResBlock(Layer):
    """Residual block with an added embedding; over pixels, or over frames when `temporal`."""

    def __init__(self, width_in, embedding, width_out, groups, temporal=False):
        super().__init__()
        self.temporal = temporal
        kernel = (3, 1, 1) if temporal else (3, 3)
        self.in_layers = nn.CellList(
            [TokenGroupNorm(width_in, groups), nn.SiLU(), Conv(width_in, width_out, *kernel)])
        self.emb_layers = nn.CellList([nn.SiLU(), Linear(embedding, width_out)])
        self.out_layers = nn.CellList(
            [TokenGroupNorm(width_out, groups), nn.SiLU(), nn.Identity(),
             Conv(width_out, width_out, *kernel)])
        self.skip_connection = None
        if width_in != width_out:
            self.skip_connection = Conv(width_in, width_out, 1, 1)

    def activate(self, norm, conv, h, grid):
        """Apply norm, SiLU and convolution; statistics over time are those of a whole video."""
        videos, frames, height, width = grid
        if self.temporal:
            h = ops.silu(norm(h, videos))
            return ops.temporal_conv(h, conv.weight, conv.bias, videos, frames)
        h = ops.silu(norm(h, videos * frames))
        return ops.conv3x3(h, conv.weight, conv.bias, videos * frames, height, width)

    def residual(self, x, emb, grid):
        """Map (rows, in) to (rows, out), the skip connection included."""
        h = self.activate(self.in_layers[0], self.in_layers[2], x, grid)
        h = add_per_frame(h, self.emb_layers[1](emb))
        h = self.activate(self.out_layers[0], self.out_layers[3], h, grid)
        if self.skip_connection is not None:
            weight = ops.depend(self.skip_connection.weight, h)
            weight = weight.reshape(weight.shape[0], weight.shape[1])
            x = ops.linear(x, weight, self.skip_connection.bias)
        return x + h


class VideoResBlock(ResBlock):
    """A spatial residual block, then one over frames, mixed."""

    def __init__(self, width_in, embedding, width_out, groups):
        super().__init__(width_in, embedding, width_out, groups)
        self.time_stack = ResBlock(width_out, embedding, width_out, groups, temporal=True)
        self.time_mixer = Mixer()

    def construct(self, h, emb, prepared, image_only, grid):
        """Map (rows, in) to (rows, out): see `Layer`."""
        h = self.residual(h, emb, grid)
        return self.time_mixer(h, self.time_stack.residual(h, emb, grid), image_only)


class Stem(Conv, Layer):
    """The first convolution."""

    def __init__(self, width_in, width_out):
        super().__init__(width_in, width_out, 3, 3)

    def construct(self, h, emb, prepared, image_only, grid):
        """Map (rows, in) to (rows, out): see `Layer`."""
        videos, frames, height, width = grid
        return ops.conv3x3(h, self.weight, self.bias, videos * frames, height, width)


class Downsample(Layer):
    """Convolution of stride 2."""

    def __init__(self, width):
        super().__init__()
        self.op = Conv(width, width, 3, 3)

    def construct(self, h, emb, prepared, image_only, grid):
        """Map (rows, C) to (rows / 4, C): see `Layer`."""
        videos, frames, height, width = grid
        weight, bias = self.op.weight, self.op.bias
        return ops.conv3x3(h, weight, bias, videos * frames, height, width, stride=2)

    def resize(self, grid):
        """Return the grid of the layer's output."""
        return grid[0], grid[1], grid[2] // 2, grid[3] // 2


class Upsample(Layer):
    """Nearest doubling, then a convolution."""

    def __init__(self, width):
        super().__init__()
        self.conv = Conv(width, width, 3, 3)

    def construct(self, h, emb, prepared, image_only, grid):
        """Map (rows, C) to (4 * rows, C): see `Layer`."""
        videos, frames, height, width = grid
        weight, bias = self.conv.weight, self.conv.bias
        return ops.conv3x3(h, weight, bias, videos * frames, height, width, upsample=True)

    def resize(self, grid):
        """Return the grid of the layer's output."""
        return grid[0], grid[1], grid[2] * 2, grid[3] * 2


def add_per_frame(x, vectors):
    """Return x (rows, C) + vectors (frames, C), each vector for all pixels of its frame."""
    return x + ops.repeat_rows(ops.depend(vectors, x), x.shape[0])
