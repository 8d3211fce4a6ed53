"""What is minimised: the EDM loss of the video model, the reconstruction loss of the autoencoder."""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore import ops as ms_ops


def lognormal_sigmas(rng, clips, num_frames, mean, std):
    """One noise level per clip, ln sigma ~ N(mean, std^2): (clips * num_frames,) float32.

    Source: Karras et al. 2022 (arXiv 2206.00364), table 1. The reference draws one per *frame*, which no sampler uses.
    """
    sigma = np.exp(mean + std * rng.standard_normal(clips)).astype(np.float32)
    return np.repeat(sigma, num_frames)


def frame_weights(num_frames, front):
    """Weights (num_frames,) of the views of an orbit that ends on the condition view: `front` for that one, rising with
    the cosine of the angle to 1 behind the object, then scaled to a mean of 1.

    SV3D lowers the loss near the front view and gives no formula (arXiv 2403.12008 app. C); this one is ours.
    """
    angles = 2 * np.pi * np.arange(1, num_frames + 1) / num_frames
    weights = front + (1 - front) * (1 - np.cos(angles)) / 2
    return weights / weights.mean()


class DiffusionLoss(nn.Cell):
    """mean of (1 + 1/sigma^2) (D(x0 + sigma noise) - x0)^2 (v-weighting; arXiv 2311.15127 app. D)."""

    def __init__(self, denoiser, num_frames, dtype=ms.float32, weights=None):
        """dtype: in which the network computes; the loss is float32. weights: (num_frames,) numpy, of a clip's frames."""
        super().__init__(auto_prefix=False)
        self.denoiser = denoiser
        self.num_frames = num_frames
        self.dtype = dtype
        self.weights = weights if weights is None else Tensor(weights.astype(np.float32).reshape(1, -1))

    def construct(self, x0, noise, sigma, crossattn, concat, vector):
        """x0, noise (F, z, h, w); sigma (F,); crossattn (F, 1, D); concat (F, z, h, w); vector (F, V) -> loss, a scalar."""
        loss = self.per_frame(x0, noise, sigma, crossattn, concat, vector)
        if self.weights is not None:
            loss = loss.reshape(-1, self.num_frames) * self.weights
        return loss.mean()

    def per_frame(self, x0, noise, sigma, crossattn, concat, vector):
        """The loss of each frame: (F,)."""
        count = x0.shape[0]
        level = sigma.reshape(count, 1, 1, 1)
        still = ms_ops.zeros((count,), ms.float32)
        prepared = self.denoiser.prepare(crossattn.astype(self.dtype), self.num_frames)
        denoised = self.denoiser(x0 + level * noise, sigma, prepared, concat, vector, still, self.num_frames)
        error = (denoised - x0).reshape(count, -1)
        return (error * error).mean(1) * (1.0 + 1.0 / (sigma * sigma))


class AutoencoderLoss(nn.Cell):
    """|x - decode(z)| + (x - decode(z))^2 + kl * KL(q(z|x) || N(0, 1)), z drawn from the posterior."""

    def __init__(self, encoder, decoder, kl_weight):
        super().__init__(auto_prefix=False)
        self.encoder = encoder
        self.decoder = decoder
        self.kl_weight = kl_weight

    def construct(self, image, noise):
        """image (N, 3, H, W) in [-1, 1], noise (N, z, h, w) standard normal -> loss, a scalar."""
        moments = self.encoder(image)
        channels = noise.shape[1]
        mean, log_variance = moments[:, :channels], moments[:, channels:].clip(-30.0, 20.0)
        error = self.decoder(mean + ms_ops.exp(0.5 * log_variance) * noise, 1) - image
        kl = 0.5 * (mean * mean + ms_ops.exp(log_variance) - 1.0 - log_variance).mean()
        return error.abs().mean() + (error * error).mean() + self.kl_weight * kl
