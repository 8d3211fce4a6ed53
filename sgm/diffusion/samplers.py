"""Samplers of the diffusion ODE: functions `(denoise, x, sigmas) -> iterator of steps`.

`denoise(x, sigma)` returns the guided estimate of the clean latents at noise level `sigma` (a
float). Each sampler yields `(i, x, denoised)` after step i, so the caller owns progress, previews
and interruption.
"""
from typing import NamedTuple

import numpy as np


def karras_sigmas(steps, sigma_min=0.002, sigma_max=700.0, rho=7.0, sigma_second=0.0):
    """Return `steps` noise levels and a final 0, (steps + 1,) float64.

    sigma_second: the level after the first, sigma_max; the others are spread below it. 0: all are
    spread below sigma_max. Source: Karras et al. 2022, arXiv 2206.00364, eq. 5.
    """
    if sigma_second and steps > 1:
        rest = karras_sigmas(steps - 1, sigma_min, sigma_second, rho)
        return np.concatenate(([sigma_max], rest))
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


def unipc(denoise, x, sigmas, order=2):
    """Yield the steps of the multistep UniPC for EDM noise levels, one evaluation each.

    Source: Zhao et al. 2023, arXiv 2302.04867. With lambda = -ln sigma the diffusion ODE is solved
    by an integral of the clean estimate, of which the last `order` are known: their interpolation
    predicts the next x. The estimate there, which the next step needs anyway, then corrects it,
    with one order more. The last step is of first order. Order 3 is nearer with many steps, but
    swings with few of them where guidance is strong (benchmarks/few_steps.py).
    """
    known, start = [], None         # (lambda, estimate), the oldest first; x and sigma before
    for i, (sigma, following) in enumerate(zip(sigmas[:-1], sigmas[1:])):
        denoised = denoise(x, sigma)
        known.append((-float(np.log(sigma)), denoised))
        if start is not None:
            x = _interpolated(*start, sigma, known)
        known, start = known[-order:], (x, sigma)
        x = denoised if following == 0 else _interpolated(x, sigma, following, known)
        yield i, x, denoised


def _interpolated(x, before, after, known):
    """Return the solution at noise level `after`, from x at `before` and a polynomial in lambda.

    known: (lambda, estimate) of its points.
    """
    lambdas = np.array([point for point, _ in known])
    nodes, weights = np.polynomial.legendre.leggauss(16)
    first, last = -np.log(before), -np.log(after)
    at = first + (last - first) * (nodes + 1) / 2
    weights = weights * (last - first) / 2 * np.exp(at - last)
    x = x * float(after / before)
    for k, (point, estimate) in enumerate(known):
        others = np.delete(lambdas, k)
        basis = np.prod((at[:, None] - others) / (point - others), 1)
        x = x + estimate * float(weights @ basis)
    return x


# Its names are those of `sgm.config.model.SAMPLERS`
BY_NAME = {sampler.__name__: sampler for sampler in (euler, heun, dpmpp2m, unipc)}
