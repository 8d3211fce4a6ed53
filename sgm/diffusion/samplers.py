"""Samplers of the diffusion ODE: functions `(denoise, x, sigmas) -> iterator of steps`.

`denoise(x, sigma)` returns the guided estimate of the clean latents at noise level `sigma` (a
float). Each sampler yields `(i, x, denoised)` after step i, so the caller owns progress, previews
and interruption.
"""
from typing import NamedTuple

import numpy as np


def karras_sigmas(steps, sigma_min=0.002, sigma_max=700.0, rho=7.0):
    """Return `steps` noise levels and a final 0, (steps + 1,) float64.

    Source: Karras et al. 2022, arXiv 2206.00364, eq. 5.
    """
    ramp = np.linspace(0, 1, steps)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return np.append((high + ramp * (low - high)) ** rho, 0.0)


def euler(denoise, x, sigmas):
    """Yield the steps of Karras et al. 2022, algorithm 1 without correction and noise."""
    for i, (sigma, following) in enumerate(zip(sigmas[:-1], sigmas[1:])):
        denoised = denoise(x, sigma)
        x = x + (x - denoised) * float((following - sigma) / sigma)
        yield i, x, denoised


class Churn(NamedTuple):
    """Noise that a stochastic sampler adds (Karras et al. 2022, algorithm 2).

    noise(i) returns what step i adds, standard normal, as `x`.
    """
    noise: object
    amount: float = 40.0                # S_churn, of all steps together
    least: float = 0.05                 # S_tmin and S_tmax: the noise levels at which it is added
    most: float = 50.0
    scale: float = 1.003                # S_noise, its standard deviation

    def added(self, x, i, sigma, steps):
        """Return x and the noise level after step i of `steps` has added its noise."""
        gamma = 0.0
        if self.least <= sigma <= self.most:
            gamma = min(self.amount / steps, 2 ** 0.5 - 1)
        raised = sigma + gamma * sigma
        more = float((raised ** 2 - sigma ** 2) ** 0.5 * self.scale)
        return (x + self.noise(i) * more if more else x), raised


def heun(denoise, x, sigmas, churn=None):
    """Yield the steps of Karras et al. 2022, algorithm 1: two evaluations each, one at the last.

    With `churn`, a Churn, they are those of algorithm 2.
    """
    for i, (sigma, following) in enumerate(zip(sigmas[:-1], sigmas[1:])):
        if churn is not None:
            x, sigma = churn.added(x, i, sigma, len(sigmas) - 1)
        denoised = denoise(x, sigma)
        slope = (x - denoised) * float(1 / sigma)
        step = float(following - sigma)
        ahead = x + slope * step
        if following > 0:
            slope_ahead = (ahead - denoise(ahead, following)) * float(1 / following)
            ahead = x + (slope + slope_ahead) * (step / 2)
        x = ahead
        yield i, x, denoised


def dpmpp2m(denoise, x, sigmas):
    """Yield the steps of DPM-Solver++(2M) for sigma_data-free EDM noise levels.

    Source: Lu et al. 2022, arXiv 2211.01095, algorithm 2. With lambda = -ln sigma, the previous
    estimate gives the second order; the first and the last step are of first order.
    """
    previous, step_before = None, None
    for i, (sigma, following) in enumerate(zip(sigmas[:-1], sigmas[1:])):
        denoised = denoise(x, sigma)
        if following == 0:
            x = denoised
        else:
            step = float(np.log(sigma / following))
            target = denoised
            if previous is not None:
                ratio = step_before / step
                target = denoised + (denoised - previous) * (1 / (2 * ratio))
            x = x * float(following / sigma) - target * float(np.expm1(-step))
            previous, step_before = denoised, step
        yield i, x, denoised


# Its names are those of `sgm.config.model.SAMPLERS`
BY_NAME = {sampler.__name__: sampler for sampler in (euler, heun, dpmpp2m)}
