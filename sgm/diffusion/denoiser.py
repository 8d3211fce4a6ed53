"""EDM v-preconditioning around the UNet: the one denoiser of sampling, training and distillation.

Source: Karras et al. 2022 (arXiv 2206.00364, table 1) with sigma_data = 1 and SVD's c_noise (arXiv 2311.15127, app. D).
Float32 outside, the network's precision inside.
"""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore import ops as ms_ops

from sgm.models.unet import VideoUNet


def scalings(sigma):
    """c_skip, c_out, c_in, c_noise for noise levels `sigma` (a float32 tensor of any shape)."""
    variance = sigma * sigma + 1.0
    root = ms_ops.sqrt(variance)
    return 1.0 / variance, -sigma / root, 1.0 / root, 0.25 * ms_ops.log(sigma)


def tensor(x):
    """Return `x`, a tensor or an array of numbers, as a tensor; arrays become float32."""
    return x if isinstance(x, Tensor) else Tensor(np.asarray(x, np.float32))


class PublishedUNet(VideoUNet):
    """VideoUNet as the original is called: any precision in, that of `x` out; its weights are loaded when they are needed.

    Compiled graphs use `prepare` and `evaluate`, and never come through here.
    """

    def __init__(self, spec, vector_width):
        super().__init__(spec, vector_width)
        self.before_call = None                 # what loads the weights

    def __call__(self, x, timesteps, context, y, num_video_frames, image_only_indicator=None):
        """Evaluate the network operator by operator; tensors or arrays.

        x (B*T, in, h, w), timesteps (B*T,), context (B*T, 1, D), y (B*T, vector_width), image_only_indicator (B, T), 1 where
        a frame is a still image. Returns (B*T, out, h, w) in the precision of `x`.
        """
        if self.before_call:
            self.before_call()
        x, timesteps, context, y = (tensor(value) for value in (x, timesteps, context, y))
        indicator = None if image_only_indicator is None else tensor(image_only_indicator)
        context = context.astype(self.time_embed[0].weight.dtype)
        return super().__call__(x, timesteps, context, y, num_video_frames, indicator).astype(x.dtype)


class Denoiser(nn.Cell):
    """Holds the network under its published name, `model.diffusion_model`."""

    def __init__(self, spec, vector_width):
        super().__init__()
        self.diffusion_model = PublishedUNet(spec, vector_width)

    def prepare(self, crossattn, num_frames):
        """What depends on the context only; see `VideoUNet.prepare`."""
        return self.diffusion_model.prepare(crossattn, num_frames)

    def construct(self, x, sigma, prepared, concat, vector, image_only, num_frames):
        """Estimate of the clean latents. x (F, 4, h, w) noisy, sigma (F,), prepared (F, K), concat (F, 4, h, w),
        vector (F, V), image_only (F,) -> (F, 4, h, w) float32."""
        c_skip, c_out, c_in, c_noise = scalings(sigma)
        broad = (-1, 1, 1, 1)
        inputs = ms_ops.concat((x * c_in.reshape(broad), concat), 1)
        output = self.diffusion_model.evaluate(inputs, c_noise, prepared, vector, image_only, num_frames)
        return x * c_skip.reshape(broad) + output.astype(ms.float32) * c_out.reshape(broad)
