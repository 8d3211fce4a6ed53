"""Solids whose color is a smooth function of the place."""
import numpy as np

from sgm.geometry.mesh import Mesh


def color_of(points, fine=1):
    """A smooth color in [0, 1] of a place."""
    return 0.5 + 0.4 * np.sin(np.asarray(points) * (9, 11, 13) * fine + (0, 1, 2))


def colored(solid, fine=1):
    """The solid drawn with `color_of` at its (many) vertices."""
    return Mesh(solid.vertices, solid.faces, colors=color_of(solid.vertices, fine).astype(np.float32))
