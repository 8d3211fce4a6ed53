"""A rough picture of latents without the decoder: colors as a linear map of them.

One latent's channels are nearly a linear image of its pixels' mean color. The map is fitted once a
run, to the input image and its own latents, so it suits any autoencoder and the object's colors.
"""
import numpy as np

from sgm.views.preprocessing import from_network

RIDGE = 1e-3        # keeps the map finite where an image has few colors


def fitted(latents, pixels):
    """Return the map (z + 1, 3) from latents to colors, its last row being an offset.

    latents (z, h, w): those of the image, scaled. pixels (3, H, W): the image in [-1, 1].
    """
    z, h, w = latents.shape
    _, height, width = pixels.shape
    means = pixels.reshape(3, h, height // h, w, width // w).mean((2, 4)).reshape(3, -1).T
    given = _with_one(latents[None]).reshape(-1, z + 1).astype(np.float64)
    return np.linalg.solve(given.T @ given + RIDGE * np.eye(z + 1), given.T @ means)


def drawn(latents, colors):
    """Return latents (T, z, h, w) as pictures (T, h, w, 3) uint8 by a map of `fitted`."""
    return from_network((_with_one(latents) @ colors).transpose(0, 3, 1, 2))


def _with_one(latents):
    """Return latents (T, z, h, w) as (T, h, w, z + 1), the last of them 1."""
    moved = np.moveaxis(latents, 1, -1)
    return np.concatenate([moved, np.ones_like(moved[..., :1])], -1)
