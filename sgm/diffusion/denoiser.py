"""EDM v-preconditioning around the UNet: the one denoiser of sampling and training.

Source: Karras et al. 2022 (arXiv 2206.00364, table 1) with sigma_data = 1 and SVD's c_noise (arXiv
2311.15127, app. D). Float32 outside, the network's precision inside.
"""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore import ops as ms_ops

from sgm.models.unet import VideoUNet


def scalings(sigma):
    """Return c_skip, c_out, c_in, c_noise of noise levels `sigma`, float32 of any shape."""
    variance = sigma * sigma + 1.0
    root = ms_ops.sqrt(variance)
    return 1.0 / variance, -sigma / root, 1.0 / root, 0.25 * ms_ops.log(sigma)


def tensor(x):
    """Return `x`, a tensor or an array of numbers, as a tensor; arrays become float32."""
    return x if isinstance(x, Tensor) else Tensor(np.asarray(x, np.float32))


class PublishedUNet(VideoUNet):
    """VideoUNet that can be called like the original, and loads its weights when it is called.

    Compiled graphs use `prepare` and `evaluate` and never come through `__call__`.
    """

    def __init__(self, spec, vector_width):
        super().__init__(spec, vector_width)
        self.before_call = None                 # a function that loads the weights
        self.dtype = None                       # what it computes in; None: as its weights

    def __call__(self, x, timesteps, context, y, num_video_frames, image_only_indicator=None):
        """Evaluate the network operator by operator, on tensors or arrays.

        x (B*T, in, h, w), timesteps (B*T,), context (B*T, 1, D), y (B*T, vector_width),
        image_only_indicator (B, T), 1 where a frame is an image of its own. Any precision is
        accepted. Return (B*T, out, h, w) in the precision of `x`.
        """
        if self.before_call:
            self.before_call()
        x, timesteps, context, y = (tensor(value) for value in (x, timesteps, context, y))
        image_only = None if image_only_indicator is None else tensor(image_only_indicator)
        context = context.astype(self.dtype or self.time_embed[0].weight.dtype)
        result = super().__call__(x, timesteps, context, y, num_video_frames, image_only)
        return result.astype(x.dtype)


class Denoiser(nn.Cell):
    """The preconditioned network, under its published name `model.diffusion_model`."""

    def __init__(self, spec, vector_width):
        super().__init__()
        self.diffusion_model = PublishedUNet(spec, vector_width)

    def prepare(self, crossattn, num_frames):
        """Return all that depends on the context only; see `VideoUNet.prepare`."""
        return self.diffusion_model.prepare(crossattn, num_frames)

    def construct(self, x, sigma, prepared, concat, vector, image_only, num_frames):
        """Return the estimate of the clean latents, (F, 4, h, w) float32.

        x (F, 4, h, w) noisy, sigma (F,), prepared (F, K), concat (F, 4, h, w), vector (F, V),
        image_only (F,).
        """
        c_skip, c_out, c_in, c_noise = scalings(sigma)
        broad = (-1, 1, 1, 1)
        inputs = ms_ops.concat((x * c_in.reshape(broad), concat), 1)
        output = self.diffusion_model.evaluate(inputs, c_noise, prepared, vector, image_only,
                                               num_frames)
        return x * c_skip.reshape(broad) + output.astype(ms.float32) * c_out.reshape(broad)
