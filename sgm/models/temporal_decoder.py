"""SVD's deflickering decoder: a residual block over time follows each one of the image decoder.

Source: Blattmann et al. 2023 (arXiv 2311.15127), sec. 4; the mixing factor here weighs the
*temporal* result. The frames of one call are one video, so results depend on how a video is cut
into chunks.
"""
from mindspore import nn
from mindspore import ops as ms_ops

from sgm import ops
from sgm.models.autoencoder import Conv2d, Decoder, GroupNorm, ResnetBlock
from sgm.models.blocks import Conv, empty


class TimeBlock(nn.Cell):
    """Residual block over the frames of `sgm.ops.to_time` maps.

    Its group norms are over all frames of a video, with eps 1e-5.
    """

    def __init__(self, width, groups):
        super().__init__()
        norm = GroupNorm(width, groups, 1e-5)
        self.in_layers = nn.CellList([norm, nn.SiLU(), Conv(width, width, 3, 1, 1)])
        norm = GroupNorm(width, groups, 1e-5)
        self.out_layers = nn.CellList([norm, nn.SiLU(), nn.Identity(), Conv(width, width, 3, 1, 1)])

    def activate(self, norm, conv, x):
        """Apply norm, SiLU and the convolution over time."""
        return ops.time_conv_nchw(ops.silu(norm(x)), conv.weight, conv.bias)

    def construct(self, x):
        """Map a map of `sgm.ops.to_time` to the same shape."""
        h = self.activate(self.in_layers[0], self.in_layers[2], x)
        return x + self.activate(self.out_layers[0], self.out_layers[3], h)


class VideoResnetBlock(ResnetBlock):
    """A spatial residual block, then one over frames: alpha * temporal + (1 - alpha) * spatial."""

    def __init__(self, width_in, width_out, groups):
        super().__init__(width_in, width_out, groups)
        self.mix_factor = empty(1)
        self.time_stack = TimeBlock(width_out, groups)

    def construct(self, x, frames):
        """Map (videos * frames, in, h, w) to (videos * frames, out, h, w)."""
        x = self.residual(x)
        height, width = x.shape[2:]
        spatial = ops.to_time(x, frames)
        temporal = self.time_stack(spatial)
        mixed = spatial + ms_ops.sigmoid(self.mix_factor) * (temporal - spatial)
        return ops.from_time(mixed, frames, height, width)


class VideoConvOut(Conv2d):
    """The last convolution, then one over time on the pixels."""

    def __init__(self, width_in, width_out):
        super().__init__(width_in, width_out)
        self.time_mix_conv = Conv(width_out, width_out, 3, 1, 1)

    def over_time(self, x, frames):
        """Convolve pixels (videos * frames, 3, H, W) over time."""
        height, width = x.shape[2:]
        conv = self.time_mix_conv
        x = ops.time_conv_nchw(ops.to_time(x, frames), conv.weight, conv.bias)
        return ops.from_time(x, frames, height, width)


class VideoDecoder(Decoder):
    """The decoder over space and time."""

    block, last = VideoResnetBlock, VideoConvOut

    def construct(self, z, frames):
        """Map latents (videos * frames, z, h, w) to (videos * frames, 3, H, W)."""
        return self.conv_out.over_time(self.conv_out(self.features(z, frames)), frames)
