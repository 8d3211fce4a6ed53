"""Exposure: brightness and tint of single views, brought in line with those of the others.

The views of a generated orbit differ in brightness, and a little in hue, as photographs with
automatic exposure do. Where others show the same places of a common hull, the factor between a
view and the median of the others is the median over these places, which highlights and the hull's
errors hardly move.
"""
from dataclasses import replace

import numpy as np

from sgm.geometry.mesh import linear_from_srgb, srgb_from_linear
from sgm.reconstruct.hull import agreement

SIDE = 192                  # pixels of the longer side that views are compared at
DARK, BRIGHT = 0.1, 0.95    # levels between which a color tells: noise below, clipped above
MOST = 0.5                  # largest natural logarithm of a factor
PLACES = 2000               # of a view that are compared, evenly spread, at most
# A view's channel is compared at so many places, and at this share of all, or follows the others
FEWEST, SHARE = 50, 0.1
# Rounds of comparing and correcting. More would remove more of what changes slowly along the orbit,
# of a cosine of the azimuth 36 % in 5 rounds and 58 % in 10, but also add up the hull's errors.
ROUNDS = 5
# Standard deviation of the factors' logarithms up to which views agree. Renders of one scene have
# .000 to .006, by the hull's errors alone; generated orbits .026 and more.
AGREEING = 0.012


def factors(views, sdf):
    """Return factors (V, 3) float64 on the linear light of the views that make them agree, or None.

    The mean of their logarithms over the views is 0, but for bounds. None if no view shows enough
    that MIN_OTHERS others show, too. views: in the box |x| <= HALF; sdf: the distance grid of a
    shape about like the object's, closed, such as that of the hull.
    """
    seen = [
        (_told(own), _told(others))
        for own, others in agreement.elsewhere(views.resized(SIDE), sdf, PLACES)
    ]
    log = np.zeros((len(views), 3))
    for _ in range(ROUNDS):
        off = np.stack([
            _difference(own + log[k], others + log[:, None]) for k, (own, others) in enumerate(seen)
        ])
        if np.isnan(off).all():
            return None
        log += np.nan_to_num(off)
        log -= log.mean(0)
    return np.exp(np.clip(log, -MOST, MOST))


def evened(views, gains):
    """Return the views, their linear light times `gains` (V, 3), as far as white allows it."""
    rgb = np.zeros_like(views.rgb)
    for k, gain in enumerate(gains):            # one by one, for the memory
        mask = views.mask[k, ..., None]
        color = np.divide(views.rgb[k], mask, out=np.zeros_like(rgb[k]), where=mask > 1e-3)
        light = linear_from_srgb(np.clip(color, 0, 1)) * gain.astype(np.float32)
        rgb[k] = srgb_from_linear(np.clip(light, 0, 1)) * mask
    return replace(views, rgb=rgb)


def _told(colors):
    """Return logarithms of the linear light of colors (..., 3), NaN where too dark or bright."""
    with np.errstate(invalid="ignore"):
        tells = (colors > DARK) & (colors < BRIGHT)
    return np.log(np.where(tells, linear_from_srgb(np.where(tells, colors, 1)), np.nan))


def _difference(own, others):
    """Return (3,), how much brighter the others' logarithms (V, N, 3) are than a view's (N, 3).

    NaN if there is too little to compare.
    """
    enough = np.isfinite(others).sum(0) >= agreement.MIN_OTHERS
    off = np.full(3, np.nan)
    for channel in range(3):
        used = enough[:, channel] & np.isfinite(own[:, channel])
        if used.sum() >= max(FEWEST, SHARE * len(own)):
            expected = np.nanmedian(others[:, used, channel], axis=0)
            off[channel] = np.median(expected - own[used, channel])
    told = np.isfinite(off)
    return np.where(told, off, off[told].mean()) if told.any() else off
