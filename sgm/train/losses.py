"""Training losses: EDM's for the video model, those of the autoencoder and of its decoder."""
from statistics import NormalDist

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore import ops as ms_ops

EDGE_BLOCK = 8              # pixels of the side of the squares in which contrast is compared
CONTRAST_FLOOR = 1e-4       # added to mean squares: the root of 0 has no gradient


class Stratified:
    """A generator of normal numbers that lie evenly: of n, one from each n-th of the distribution.

    They come in random order. Each number alone is normal, so that a loss has the same expectation
    as with independent ones. But the size of a loss depends above all on its noise level, and
    levels that are never all high or all low take that part of the variance from the mean over a
    step's clips. Number i is the inverse normal CDF of (i + u) / n, with a u of [0, 1) of its own:
    one u for all would move them together, and leave twice the spread in the mean of 6.
    """

    def __init__(self, rng):
        self.rng = rng

    def standard_normal(self, count):
        """Return (count,) float64 numbers, which depend on each other."""
        # never 0 or 1, where the inverse is infinite
        offsets = (self.rng.integers(2 ** 32, size=count) + 0.5) / 2 ** 32
        places = (self.rng.permutation(count) + offsets) / count
        return np.array([NormalDist().inv_cdf(place) for place in places])


def lognormal_sigmas(rng, clips, num_frames, mean, std):
    """Return one noise level per clip, ln sigma ~ N(mean, std^2): (clips * num_frames,) float32.

    rng: gives normal numbers. Source: Karras et al. 2022 (arXiv 2206.00364), table 1. The original
    draws one per *frame*, which no sampler uses.
    """
    sigma = np.exp(mean + std * rng.standard_normal(clips)).astype(np.float32)
    return np.repeat(sigma, num_frames)


def frame_weights(num_frames, front):
    """Return the weights (num_frames,) of the views of an orbit that ends on the condition view.

    They are `front` for that view, rise with the cosine of the angle to 1 behind the object, and
    are then scaled to a mean of 1. SV3D lowers the loss near the front view and gives no formula
    (arXiv 2403.12008 app. C); this one is ours.
    """
    angles = 2 * np.pi * np.arange(1, num_frames + 1) / num_frames
    weights = front + (1 - front) * (1 - np.cos(angles)) / 2
    return weights / weights.mean()


class DiffusionLoss(nn.Cell):
    """The mean of (1 + 1/sigma^2) (D(x0 + sigma noise) - x0)^2.

    Source: v-weighting; arXiv 2311.15127 app. D.
    """

    def __init__(self, denoiser, num_frames, dtype=ms.float32, weights=None):
        """Keep the denoiser.

        num_frames: frames of a whole clip. dtype: in which the network computes; the loss is
        float32. weights: (num_frames,) numpy, those of a clip's frames, or None.
        """
        super().__init__(auto_prefix=False)
        self.denoiser = denoiser
        self.num_frames = num_frames
        self.dtype = dtype
        self.weights = None
        if weights is not None:
            self.weights = Tensor(weights.astype(np.float32).reshape(1, -1))

    def construct(self, x0, noise, sigma, crossattn, concat, vector, rows=None):
        """Return the loss, a scalar.

        x0, noise (F, z, h, w); sigma (F,); crossattn (F, 1, D); concat (F, z, h, w); vector (F, V).

        rows (F,) int32: for clips that lack frames, the place of each of the F frames among those
        of whole clips; crossattn is then that of whole clips. So every frame has its true place in
        time.
        """
        loss = self.per_frame(x0, noise, sigma, crossattn, concat, vector, rows)
        if self.weights is not None:
            shape = (crossattn.shape[0] // self.num_frames, self.num_frames)
            weights = self.weights.broadcast_to(shape).reshape(-1)
            loss = loss * (weights if rows is None else ms_ops.gather(weights, rows, 0))
        return loss.mean()

    def per_frame(self, x0, noise, sigma, crossattn, concat, vector, rows=None):
        """Return the loss of each frame, (F,)."""
        count = x0.shape[0]
        level = sigma.reshape(count, 1, 1, 1)
        image_only = ms_ops.zeros((count,), ms.float32)
        prepared = self.denoiser.prepare(crossattn.astype(self.dtype), self.num_frames)
        if rows is not None:
            prepared = ms_ops.gather(prepared, rows, 0)
        frames = count * self.num_frames // crossattn.shape[0]      # of each clip
        denoised = self.denoiser(
            x0 + level * noise, sigma, prepared, concat, vector, image_only, frames)
        error = (denoised - x0).reshape(count, -1)
        return (error * error).mean(1) * (1.0 + 1.0 / (sigma * sigma))


def edge_mismatch(first, second):
    """Return how far the contrast of images (N, 3, H, W) is from that of others, a scalar.

    It is the mean difference of the root mean squares, in squares of EDGE_BLOCK pixels, of two
    octaves: of what is left of pixels without the mean of their block of 2, and of those means
    without the ones of 4. Where a texture cannot be told exactly, the least square error is that of
    a blur; to this term a texture that lies elsewhere is as good as the true one.
    """
    mismatch = 0.0
    for a, b in zip(_contrasts(first), _contrasts(second)):
        mismatch = mismatch + (a - b).abs().mean()
    return mismatch


def _contrasts(image):
    """Return the root mean squares in squares of EDGE_BLOCK pixels, an array for each octave."""
    found = ()
    for side in (EDGE_BLOCK, EDGE_BLOCK // 2):      # of a square, in what the octave begins with
        height, width = image.shape[2:]
        blocks = image.reshape(-1, height // 2, 2, width // 2, 2)
        image = blocks.mean((2, 4))
        detail = blocks - image.reshape(-1, height // 2, 1, width // 2, 1)
        detail = detail.reshape(-1, height // side, side, width // side, side)
        found = found + (ms_ops.sqrt((detail * detail).mean((2, 4)) + CONTRAST_FLOOR),)
        image = image.reshape(1, -1, height // 2, width // 2)
    return found


class AutoencoderLoss(nn.Cell):
    """|x - decode(z)| + (x - decode(z))^2 + kl * KL(q(z|x) || N(0, 1)) + edge * `edge_mismatch`.

    z is drawn from the posterior.
    """

    def __init__(self, encoder, decoder, kl_weight, edge_weight=0.0):
        super().__init__(auto_prefix=False)
        self.encoder = encoder
        self.decoder = decoder
        self.kl_weight = kl_weight
        self.edge_weight = edge_weight

    def construct(self, image, noise):
        """Return the loss, a scalar, of image (N, 3, H, W) in [-1, 1].

        noise: (N, z, h, w) standard normal.
        """
        moments = self.encoder(image)
        channels = noise.shape[1]
        mean, log_variance = moments[:, :channels], moments[:, channels:].clip(-30.0, 20.0)
        decoded = self.decoder(mean + ms_ops.exp(0.5 * log_variance) * noise, 1)
        error = decoded - image
        kl = 0.5 * (mean * mean + ms_ops.exp(log_variance) - 1.0 - log_variance).mean()
        loss = error.abs().mean() + (error * error).mean() + self.kl_weight * kl
        if self.edge_weight:
            loss = loss + self.edge_weight * edge_mismatch(decoded, image)
        return loss


class DecoderLoss(nn.Cell):
    """(x - decode(z))^2 + 0.1 |x - decode(z)| + edge * `edge_mismatch` for latents z as given.

    The square is least for the mean of the views that such a z may stand for; the small share of
    the absolute error, least for their median, keeps outlines: with weights of 0, 0.1 and 0.3
    silhouettes of the small model overlapped the true ones by 0.885, 0.896 and 0.904, with
    foreground PSNR of 15.04, 14.96 and 14.87 dB (the last after 700 steps fewer).
    """

    def __init__(self, decoder, edge_weight=0.0):
        super().__init__(auto_prefix=False)
        self.decoder = decoder
        self.edge_weight = edge_weight

    def construct(self, z, image):
        """Return the loss, a scalar.

        z (N, z, h, w) unscaled, image (N, 3, H, W) in [-1, 1].
        """
        decoded = self.decoder(z, 1)
        error = decoded - image
        loss = (error * error).mean() + 0.1 * error.abs().mean()
        if self.edge_weight:
            loss = loss + self.edge_weight * edge_mismatch(decoded, image)
        return loss
