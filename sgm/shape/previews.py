"""Preview pictures of an optimisation under way: three of the views, and below each what there is of it."""
import numpy as np

from sgm.geometry.mesh import Mesh
from sgm.geometry.topology import vertex_normals
from sgm.render.zbuffer import Lighting
from sgm.shape import shading, turntable
from sgm.views.images import composite

SIDE, SHOWN = 160, 3    # pixels of a picture's longer side, and how many stand side by side


def shown(count):
    """Which of `count` views are shown, evenly spread -> (SHOWN,) int."""
    return np.linspace(0, count, SHOWN, endpoint=False).astype(int)


def on_white(rgb, mask):
    """A premultiplied picture (..., 3) with its mask (...) on white -> uint8."""
    return np.round((rgb + 1 - mask[..., None]) * 255).clip(0, 255).astype(np.uint8)


def stacked(*rows):
    """Rows of equally large pictures, from above -> one picture uint8 (rows * h, SHOWN * w, 3)."""
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)


def of_surface(surface, field, views):
    """Views, the surface in the colours of its field, its shape alone -> uint8 (3 h, SHOWN w, 3).

    surface: a `shading.Surface` in the box of `views`; field: a `field.Field`.
    """
    small = views.subset(shown(len(views))).resized(SIDE)
    coloured = [on_white(*shading.picture(surface, field, small, k)) for k in range(len(small))]
    vertices = np.asarray(surface.vertices, np.float32)
    grey = Mesh(vertices, surface.faces, vertex_normals(vertices, surface.faces).astype(np.float32),
                np.full((len(vertices), 3), 0.8, np.float32))
    return stacked(on_white(small.rgb, small.mask), coloured, map(composite, turntable.render_like(grey, small, Lighting())))
