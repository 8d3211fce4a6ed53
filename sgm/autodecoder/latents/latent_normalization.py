"""Robust normalization of latents, whose distribution is a bell with tails up to 1e7.

Source: Ntavelis et al. 2023 (arXiv 2307.05445), section 3.3 and appendix B.2: with mean and
standard deviation the diffusion did not converge. The paper's formula gives the bulk a standard
deviation of 1, the caption of its figure 9 says [-1, 1], and its sigma_data is 0.5: what the bulk
gets here is a setting (`DiffusionSpec.latent_std`).
"""
from typing import NamedTuple

import numpy as np

QUARTILES = 0.7413      # the standard deviation of a normal distribution over its quartiles' range


class Normalization(NamedTuple):
    """normalized = clip((latents - median) / deviation, +-limit) * std; numbers."""
    median: float
    deviation: float            # robust standard deviation of the latents
    std: float                  # that the bulk gets
    limit: float                # in robust standard deviations

    def apply(self, latents):
        """Return latents, arrays or tensors of any shape, normalized and clipped."""
        scaled = (latents - self.median) / self.deviation
        return scaled.clip(-self.limit, self.limit) * self.std

    def invert(self, normalized):
        """Return the latents; those that were clipped stay so."""
        return normalized * (self.deviation / self.std) + self.median


def robust_normalization(latents, std, limit):
    """Return the Normalization of latents (array), one pair of numbers for all of them.

    Raises ValueError if the quartiles coincide: there is nothing to learn then.
    """
    low, median, high = np.percentile(latents, (25, 50, 75))
    if not high > low:
        raise ValueError("half of all latents are the same number")
    return Normalization(float(median), float(QUARTILES * (high - low)), std, limit)


def clipped_share(latents, normalization):
    """Return which share of the latents the clip changes."""
    distance = np.abs(latents - normalization.median)
    return float((distance > normalization.limit * normalization.deviation).mean())
