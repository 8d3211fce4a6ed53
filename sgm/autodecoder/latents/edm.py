"""EDM: preconditioning around a network, and its loss.

Source: Karras et al. 2022 (arXiv 2206.00364), table 1, with sigma_data as a parameter. The sampler
is `sgm.diffusion.samplers.heun`.
"""
from mindspore import nn
from mindspore import ops as P


def coefficients(sigma, sigma_data):
    """Return c_skip, c_out, c_in, c_noise of noise levels `sigma`, of any shape."""
    variance = sigma * sigma + sigma_data * sigma_data
    root = P.sqrt(variance)
    return (sigma_data * sigma_data / variance, sigma * sigma_data / root, 1.0 / root,
            0.25 * P.log(sigma))


class Preconditioned(nn.Cell):
    """D(x, sigma) = c_skip x + c_out F(c_in x, c_noise) for a network F."""

    def __init__(self, network, sigma_data):
        super().__init__()
        self.network = network
        self.sigma_data = sigma_data

    def construct(self, x, sigma, *more):
        """Return the estimate of what was there before the noise, as `x`.

        x: `count` items, the first axis is theirs, or holds equally many rows of each; sigma
        (count,); more: what the network is told besides.
        """
        shape, count = x.shape, sigma.shape[0]
        c_skip, c_out, c_in, c_noise = coefficients(sigma.reshape(count, 1), self.sigma_data)
        flat = x.reshape(count, -1)
        output = self.network((flat * c_in).reshape(shape), c_noise.reshape(count), *more)
        return (flat * c_skip + output.reshape(count, -1) * c_out).reshape(shape)


class DenoisingLoss(nn.Cell):
    """The mean of (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 (D(x + sigma n) - x)^2."""

    def __init__(self, denoiser):
        super().__init__(auto_prefix=False)
        self.denoiser = denoiser

    def construct(self, x, noise, sigma, *more):
        """Return the loss, a scalar; x, noise, more as `Preconditioned`, sigma (count,)."""
        return self.per_item(x, noise, sigma, *more).mean()

    def per_item(self, x, noise, sigma, *more):
        """Return the loss of each item, (count,)."""
        count, data = sigma.shape[0], self.denoiser.sigma_data
        flat, level = x.reshape(count, -1), sigma.reshape(count, 1)
        noisy = (flat + level * noise.reshape(count, -1)).reshape(x.shape)
        error = self.denoiser(noisy, sigma, *more).reshape(count, -1) - flat
        weight = (sigma * sigma + data * data) / (sigma * data * (sigma * data))
        return (error * error).mean(1) * weight
