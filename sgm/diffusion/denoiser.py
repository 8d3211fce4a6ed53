"""EDM v-preconditioning around the UNet: the one denoiser of sampling, training and distillation.

Source: Karras et al. 2022 (arXiv 2206.00364, table 1) with sigma_data = 1 and SVD's c_noise (arXiv 2311.15127, app. D).
Float32 outside, the network's precision inside.
"""
import mindspore as ms
from mindspore import nn
from mindspore import ops as ms_ops

from sgm.models.unet import VideoUNet


def scalings(sigma):
    """c_skip, c_out, c_in, c_noise for noise levels `sigma` (a float32 tensor of any shape)."""
    variance = sigma * sigma + 1.0
    root = ms_ops.sqrt(variance)
    return 1.0 / variance, -sigma / root, 1.0 / root, 0.25 * ms_ops.log(sigma)


class Denoiser(nn.Cell):
    """Holds the network under its published name, `model.diffusion_model`."""

    def __init__(self, spec, vector_width):
        super().__init__()
        self.diffusion_model = VideoUNet(spec, vector_width)

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
