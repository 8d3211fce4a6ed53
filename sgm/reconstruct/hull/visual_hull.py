"""The visual hull as a signed distance (numpy, numba, OpenCV only).

Laurentini, "The visual hull concept for silhouette-based image understanding", 1994. The distance
is the largest over views of the distance to the outline in the picture, at the point's depth: exact
at the surface, a bound elsewhere.
"""
import cv2
import numpy as np
from numba import njit

from sgm.reconstruct.hull import sdf_grid

# Where pictures have unknown parts: share of the number of views that know something of the best
# known voxels. Voxels of which that many do give the object's bounding box.
TOLD = 0.6
TOLD_CUT_OFF = 0.4      # the same where pictures only cut the object off: few may show its ends


def outline_distance(mask, known=None):
    """Return the signed distance in pixels to the outline of a mask, negative inside.

    mask (H, W) in [0, 1]; the result is (H, W) float32. Where alpha is between 0 and 1 the outline
    is known to a fraction of a pixel; where there is none the distance is H + W. known (H, W) bool:
    NaN where it is False; the object may reach as far into there as it likes.
    """
    inside = (mask > 0.5 if known is None else (mask > 0.5) | ~known).astype(np.uint8)
    farthest = np.float32(sum(mask.shape))      # without an outline OpenCV's distance is infinite
    # OpenCV's last bit is another one at each call; squares of distances between pixels are whole
    # numbers.
    out, within = (
        np.sqrt(np.rint(np.square(np.minimum(
            cv2.distanceTransform(part, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), 2 * farthest))))
        for part in (1 - inside, inside)
    )
    signed = np.where(inside > 0, 0.5 - within, out - 0.5)
    edge = (mask > 0) & (mask < 1) & (np.abs(signed) <= 0.5)
    signed = np.where(edge, 0.5 - mask, signed).astype(np.float32)
    signed = np.clip(signed, -farthest, farthest)
    return signed if known is None else np.where(known, signed, np.float32(np.nan))


def without_islands(mask, known):
    """Return where a view tells of the object: `known` (H, W) and unknown parts it does not touch.

    An object that ends clear of such a part does not go on within it.
    """
    _, labels = cv2.connectedComponents((~known).astype(np.uint8), connectivity=8)
    touched = np.unique(labels[cv2.dilate((mask > 0.5).astype(np.uint8), np.ones((5, 5))) > 0])
    return known | ~np.isin(labels, touched)


@njit(cache=True)
def _carve(distances, open_sides, world_to_camera, intrinsics, axis, allowed_outliers):
    """Return the grid of distances, and how many views know something of each vertex."""
    count, height, width = distances.shape
    fx, fy, cx, cy = intrinsics[0], intrinsics[1], intrinsics[2], intrinsics[3]
    n = len(axis)
    out, largest = np.empty((n, n, n), np.float32), np.empty(allowed_outliers + 1)
    told = np.empty((n, n, n), np.int16)
    for i in range(n):
        for j in range(n):
            for k in range(n):
                largest[:] = -1e9               # in descending order
                count_told = 0
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
                        # Past a side that the object touches, nothing is known; past another one is
                        # background.
                        if (
                            u < 0
                            and open_sides[v, 0]
                            or u > width - 1
                            and open_sides[v, 1]
                            or w < 0
                            and open_sides[v, 2]
                            or w > height - 1
                            and open_sides[v, 3]
                        ):
                            continue
                    u, w = min(max(u, 0.0), width - 1.001), min(max(w, 0.0), height - 1.001)
                    a, b = int(u), int(w)
                    s, t = u - a, w - b
                    d = distances[v]
                    value = ((d[b, a] * (1 - s) + d[b, a + 1] * s) * (1 - t)
                             + (d[b + 1, a] * (1 - s) + d[b + 1, a + 1] * s) * t + max(beyond, 0.0))
                    value *= depth / fx
                    if value != value:          # NaN: not known
                        continue
                    count_told += 1
                    for place in range(allowed_outliers + 1):
                        if value > largest[place]:
                            value, largest[place] = largest[place], value
                out[i, j, k] = largest[allowed_outliers * count_told // count]
                told[i, j, k] = count_told
    return out, told


def hull_sdf(views, resolution, half, allowed_outliers=0):
    """Return the hull of `views` on a grid (R + 1,) * 3 float32, box units, negative inside.

    It is not closed at the box. allowed_outliers: number of views allowed to contradict a voxel
    that all of them show, for poses or masks that are not exact; of one that fewer show, as large a
    share. Where pictures have unknown parts, or cut the object off, what few views know is the
    object's only within the bounding box of what many know, see `_bounded`.
    """
    if views.known is None:
        distances = np.stack([outline_distance(mask) for mask in views.mask])
    else:
        distances = np.stack([outline_distance(mask, without_islands(mask, known))
                              for mask, known in zip(views.mask, views.known)])
    cut_off = views.cut_off()
    sdf, told = _carve(
        distances,
        cut_off,
        np.linalg.inv(views.c2w),
        views.intrinsics,
        sdf_grid.vertices(resolution, half),
        min(allowed_outliers, len(views) - 1),
    )
    if views.known is None and not cut_off.any():
        return sdf
    beyond = np.float32(4 * half / resolution)      # two cells
    share = TOLD_CUT_OFF if views.known is None else TOLD
    return np.where(_bounded(sdf, told, share), sdf, beyond)


def _bounded(sdf, told, share):
    """Return which values of a grid are believed, by how many views know of them.

    In front of the object and behind it, the views in line with it show it alone; where no other
    view knows anything, that is no reason to believe in more of it.
    """
    inside = (sdf < 0) & (told > 0)
    if not inside.any():
        return inside
    well_known = np.argwhere(inside & (told >= share * np.quantile(told[inside], 0.9)))
    low, high = well_known.min(0) - 1, well_known.max(0) + 2
    may = np.zeros(sdf.shape, bool)
    may[tuple(slice(max(a, 0), b) for a, b in zip(low, high))] = True
    return (told > 0) & (may | (sdf >= 0))


def closed(sdf, half):
    """Return the grid cut by the box, half a cell within its sides: its border is outside."""
    resolution = sdf.shape[0] - 1
    away = np.abs(sdf_grid.vertices(resolution, half))
    furthest = np.maximum(np.maximum(away[:, None, None], away[None, :, None]), away[None, None, :])
    return np.maximum(sdf, furthest - np.float32(half - half / resolution))


def surface_points(sdf, half):
    """Return points (N, 3) float32 where edges of the grid cross zero."""
    axis = sdf_grid.vertices(sdf.shape[0] - 1, half)
    points = []
    for d in range(3):
        low, high = (
            np.take(sdf, range(*part), axis=d)
            for part in ((0, sdf.shape[d] - 1), (1, sdf.shape[d]))
        )
        index = np.argwhere((low < 0) != (high < 0))
        a, b = low[tuple(index.T)], high[tuple(index.T)]
        found = axis[index]
        found[:, d] += (axis[1] - axis[0]) * a / (a - b)
        points.append(found)
    return np.concatenate(points)
