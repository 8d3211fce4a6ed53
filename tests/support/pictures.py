"""Pictures of a simple object."""
import numpy as np


def disc(size=64, radius=20, colour=(200, 30, 30), centre=None):
    """An RGBA disc, antialiased by supersampling."""
    x, y = centre or (size / 2, size / 2)
    grid = (np.arange(4 * size) + 0.5) / 4
    inside = np.hypot(grid[None] - x, grid[:, None] - y) < radius
    alpha = inside.reshape(size, 4, size, 4).mean(axis=(1, 3)) * 255 + 0.5
    rgba = np.empty((size, size, 4), np.uint8)
    rgba[..., :3], rgba[..., 3] = colour, alpha
    return rgba
