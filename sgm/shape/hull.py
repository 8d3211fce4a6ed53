"""The visual hull as a signed distance, and the prior that closes it below (numpy, numba, OpenCV only).

Laurentini, "The visual hull concept for silhouette-based image understanding", 1994. The distance is the largest over
views of the distance to the outline in the picture, at the point's depth: exact at the surface, a bound elsewhere.
"""
import cv2
import numpy as np
from numba import njit

from sgm.geometry import topology
from sgm.shape import grid

UNDERSIDE = 0.5         # cosine to straight down above which a vertex belongs to the underside
BASE_FACING = 0.2       # cosine above which a face counts as seen: grazing faces are the cone of the hull itself


def outline_distance(mask):
    """Signed distance in pixels to the outline of a mask (H, W) in [0, 1] -> (H, W) float32, negative inside.

    Where alpha is between 0 and 1 the outline is known to a fraction of a pixel.
    """
    inside = (mask > 0.5).astype(np.uint8)
    # OpenCV's last bit is another one at each call; squares of distances between pixels are whole numbers.
    out, within = (np.sqrt(np.rint(np.square(cv2.distanceTransform(part, cv2.DIST_L2, cv2.DIST_MASK_PRECISE))))
                   for part in (1 - inside, inside))
    signed = np.where(inside > 0, 0.5 - within, out - 0.5)
    edge = (mask > 0) & (mask < 1) & (np.abs(signed) <= 0.5)
    return np.where(edge, 0.5 - mask, signed).astype(np.float32)


@njit(cache=True)
def _carve(distances, open_sides, world_to_camera, intrinsics, axis, outvoted):
    count, height, width = distances.shape
    fx, fy, cx, cy = intrinsics[0], intrinsics[1], intrinsics[2], intrinsics[3]
    n = len(axis)
    out, largest = np.empty((n, n, n), np.float32), np.empty(outvoted + 1)
    for i in range(n):
        for j in range(n):
            for k in range(n):
                largest[:] = -1e9               # in descending order
                for v in range(count):
                    m = world_to_camera[v]
                    x = m[0, 0] * axis[i] + m[0, 1] * axis[j] + m[0, 2] * axis[k] + m[0, 3]
                    y = m[1, 0] * axis[i] + m[1, 1] * axis[j] + m[1, 2] * axis[k] + m[1, 3]
                    depth = -(m[2, 0] * axis[i] + m[2, 1] * axis[j] + m[2, 2] * axis[k] + m[2, 3])
                    if depth < 1e-3:            # behind a camera: it says nothing
                        continue
                    u = cx + fx * x / depth - 0.5
                    w = cy - fy * y / depth - 0.5
                    beyond = max(max(-u, u - (width - 1)), max(-w, w - (height - 1)))
                    if beyond > 0:
                        # Past a side that the object touches, nothing is known; past another one is background.
                        if (u < 0 and open_sides[v, 0] or u > width - 1 and open_sides[v, 1]
                                or w < 0 and open_sides[v, 2] or w > height - 1 and open_sides[v, 3]):
                            continue
                    u, w = min(max(u, 0.0), width - 1.001), min(max(w, 0.0), height - 1.001)
                    a, b = int(u), int(w)
                    s, t = u - a, w - b
                    d = distances[v]
                    value = ((d[b, a] * (1 - s) + d[b, a + 1] * s) * (1 - t)
                             + (d[b + 1, a] * (1 - s) + d[b + 1, a + 1] * s) * t + max(beyond, 0.0))
                    value *= depth / fx
                    for place in range(outvoted + 1):
                        if value > largest[place]:
                            value, largest[place] = largest[place], value
                out[i, j, k] = largest[outvoted]
    return out


def hull_sdf(views, resolution, half, outvoted=0):
    """The hull of `views` on a grid -> (R + 1,) * 3 float32, box units, negative inside; not closed at the box.

    outvoted: so many views may deny a place before it counts as outside, for poses or masks that are not exact.
    """
    distances = np.stack([outline_distance(mask) for mask in views.mask])
    touches = np.stack([np.array([side.mean() > 0.01 for side in (mask[:, 0], mask[:, -1], mask[0], mask[-1])])
                        for mask in views.mask > 0.5])
    return _carve(distances, touches, np.linalg.inv(views.c2w), views.intrinsics, grid.vertices(resolution, half),
                  min(outvoted, len(views) - 1))


def closed(sdf, half):
    """The grid cut by the box, half a cell within its sides: all outermost vertices are outside."""
    resolution = sdf.shape[0] - 1
    away = np.abs(grid.vertices(resolution, half))
    furthest = np.maximum(np.maximum(away[:, None, None], away[None, :, None]), away[None, None, :])
    return np.maximum(sdf, furthest - np.float32(half - half / resolution))


def surface_points(sdf, half):
    """Points where edges of the grid cross zero -> (N, 3) float32."""
    axis = grid.vertices(sdf.shape[0] - 1, half)
    points = []
    for d in range(3):
        low, high = (np.take(sdf, range(*part), axis=d) for part in ((0, sdf.shape[d] - 1), (1, sdf.shape[d])))
        index = np.argwhere((low < 0) != (high < 0))
        a, b = low[tuple(index.T)], high[tuple(index.T)]
        found = axis[index]
        found[:, d] += (axis[1] - axis[0]) * a / (a - b)
        points.append(found)
    return np.concatenate(points)


def visibility(sdf, half, points, normals, views):
    """The best cosine between normal and direction to a camera that sees the point -> (N,) float32; -1: seen by none."""
    cell = 2 * half / (sdf.shape[0] - 1)
    best = np.full(len(points), -1, np.float32)
    for eye in views.c2w[:, :3, 3]:
        towards = eye.astype(np.float32) - points
        distance = np.linalg.norm(towards, axis=-1)
        towards /= np.maximum(distance, 1e-9)[:, None]
        cosine = np.einsum("ni,ni->n", towards, normals)
        better = np.flatnonzero(cosine > np.maximum(best, 0))
        start = points[better] + 2 * cell * normals[better]
        free = better[~np.isfinite(grid.trace(sdf, half, start, towards[better]))]
        best[free] = cosine[free]
    return best


def base_height(sdf, half, views):
    """Height z of the object's underside under the prior that what no camera sees from below is flat.

    The lowest part of the hull that some camera sees under a cosine above BASE_FACING: what lies deeper is the cone that
    the silhouettes leave open below. -> float, or None where nothing is cut off (the hull is seen down to its end).
    """
    points = surface_points(sdf, half)
    if not len(points):
        return None
    normals = grid.gradient(sdf, half, points)
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)
    low = points[:, 2] < np.quantile(points[:, 2], 0.6)     # an underside is not above most of the surface
    points, normals = points[low], normals[low]
    seen = points[visibility(sdf, half, points, normals, views) > BASE_FACING, 2]
    if len(seen) < 20:
        return None
    height = float(np.sort(seen)[:max(1, len(seen) // 500)].mean())
    cell = 2 * half / (sdf.shape[0] - 1)
    return height if height > points[:, 2].min() + 0.25 * cell else None


def flattened(vertices, faces, base, sdf, half):
    """The same prior for the finished surface, whose outlines know the rim better than the hull did -> vertices.

    What faces down within one cell of the estimated `base` goes down to the rim, the mean height of the lowest half
    percent of the vertices, as far as it stays inside the hull, so that no outline changes: `sdf`, of the hull uncut.
    """
    vertices = np.array(vertices, np.float32)
    cell = 2 * half / (sdf.shape[0] - 1)
    under = np.flatnonzero((topology.vertex_normals(vertices, faces)[:, 2] < -UNDERSIDE) & (vertices[:, 2] < base + cell))
    rim = np.sort(vertices[:, 2])[:max(1, len(vertices) // 200)].mean()
    start = vertices[under]
    for share in np.linspace(0, 1, 9)[1:]:
        lower = start.copy()
        lower[:, 2] += np.float32(share) * np.minimum(rim - start[:, 2], 0)
        inside = grid.sample(sdf, half, lower) < -0.25 * cell
        vertices[under[inside]] = lower[inside]
    return vertices


def cut_below(sdf, half, height):
    """The grid without what is below the plane z = height."""
    return np.maximum(sdf, np.float32(height) - grid.vertices(sdf.shape[0] - 1, half)[None, None, :])
