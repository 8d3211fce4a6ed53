"""Base prior: the underside that no camera sees is cut flat.

A prior is an assumption about objects that the pictures do not prove. Cameras at the level of an
object or above leave a cone open below it, which belongs to the hull although the object stands on
a flat base. Setting hull.base=false switches the prior off.
"""
import numpy as np

from sgm.geometry import topology
from sgm.reconstruct.hull import sdf_grid
from sgm.reconstruct.hull.visual_hull import surface_points

UNDERSIDE = 0.5         # cosine to straight down above which a vertex belongs to the underside
# cosine above which a face counts as seen: grazing faces are the cone of the hull itself
BASE_FACING = 0.2


def visibility(sdf, half, points, normals, views):
    """Return the best cosine between normal and direction to a camera that sees a point, (N,).

    It is float32, and -1 for points that no camera sees.
    """
    cell = 2 * half / (sdf.shape[0] - 1)
    best = np.full(len(points), -1, np.float32)
    for eye in views.c2w[:, :3, 3]:
        towards = eye.astype(np.float32) - points
        distance = np.linalg.norm(towards, axis=-1)
        towards /= np.maximum(distance, 1e-9)[:, None]
        cosine = np.einsum("ni,ni->n", towards, normals)
        better = np.flatnonzero(cosine > np.maximum(best, 0))
        start = points[better] + 2 * cell * normals[better]
        free = better[~np.isfinite(sdf_grid.trace(sdf, half, start, towards[better]))]
        best[free] = cosine[free]
    return best


def base_height(sdf, half, views):
    """Return the height z of the underside, assuming that what no camera sees from below is flat.

    It is the lowest part of the hull that some camera sees under a cosine above BASE_FACING: what
    lies deeper is the cone that the silhouettes leave open below. None means that nothing is cut
    off (the hull is seen down to its end).
    """
    points = surface_points(sdf, half)
    if not len(points):
        return None
    normals = sdf_grid.gradient(sdf, half, points)
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)
    # an underside is not above most of the surface
    low = points[:, 2] < np.quantile(points[:, 2], 0.6)
    points, normals = points[low], normals[low]
    seen = points[visibility(sdf, half, points, normals, views) > BASE_FACING, 2]
    if len(seen) < 20:
        return None
    height = float(np.sort(seen)[:max(1, len(seen) // 500)].mean())
    cell = 2 * half / (sdf.shape[0] - 1)
    return height if height > points[:, 2].min() + 0.25 * cell else None


def flattened(vertices, faces, base, sdf, half):
    """Return vertices of the finished surface under the same prior.

    Its outlines know the rim better than the hull did: what faces down within one cell of the
    estimated `base` goes down to the rim, the mean height of the lowest half percent of the
    vertices, as far as it stays inside the hull, so that no outline changes. sdf: that of the hull,
    not cut.
    """
    vertices = np.array(vertices, np.float32)
    cell = 2 * half / (sdf.shape[0] - 1)
    under = np.flatnonzero(
        (topology.vertex_normals(vertices, faces)[:, 2] < -UNDERSIDE)
        & (vertices[:, 2] < base + cell)
    )
    rim = np.sort(vertices[:, 2])[:max(1, len(vertices) // 200)].mean()
    start = vertices[under]
    for share in np.linspace(0, 1, 9)[1:]:
        lower = start.copy()
        lower[:, 2] += np.float32(share) * np.minimum(rim - start[:, 2], 0)
        inside = sdf_grid.sample(sdf, half, lower) < -0.25 * cell
        vertices[under[inside]] = lower[inside]
    return vertices


def cut_below(sdf, half, height):
    """Return the grid without what is below the plane z = height."""
    return np.maximum(
        sdf, np.float32(height) - sdf_grid.vertices(sdf.shape[0] - 1, half)[None, None, :]
    )
