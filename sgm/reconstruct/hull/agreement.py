"""How far the views of an orbit agree: in their outlines, and in their colors (no gradients)."""
import cv2
import numpy as np

from sgm.reconstruct.hull import sdf_grid, visual_hull
from sgm.reconstruct.hull.scene_box import LOW, coverage
from sgm.reconstruct.posed_views import HALF
from sgm.views.cameras import project

SOLID = 0.99        # alpha from which a pixel's color is the object's alone
BEHIND = 2.5        # cells behind what a view sees first, up to which it still sees a point
MIN_OTHERS = 3      # views that a point must be seen by, beyond the one compared


def outline_coverage(views, resolution=LOW):
    """Return how much of the masks the hull of `views`, in the box |x| <= HALF, covers: [0, 1]."""
    sdf = visual_hull.closed(visual_hull.hull_sdf(views, resolution, HALF), HALF)
    return coverage(sdf, views)


def color_residual(views, quantiles=(0.5, 0.9), resolution=LOW):
    """Return how far each view's colors are from what the others show there, (V, Q) float64.

    views: in the box |x| <= HALF. Every pixel of the object is carried on the views' hull (which a
    tenth of them may contradict) to the others that see its place; the median of these is what it
    should be. Its difference is the root mean square over the channels, levels in [0, 1]. The
    result is quantiles over a view's pixels: the median tells drift and is hardly moved where the
    hull is not the shape; a high one tells highlights too. NaN for a view none of whose pixels
    MIN_OTHERS others see.
    """
    sdf = visual_hull.hull_sdf(views, resolution, HALF, len(views) // 10)
    seen, distances = sdf_grid.silhouettes(visual_hull.closed(sdf, HALF), HALF, views)
    solid = views.mask > SOLID
    colors = views.rgb / np.maximum(views.mask, SOLID)[..., None]
    focal, middle = views.fl_x, (views.cx, views.cy)
    places, depths = [], np.full(seen.shape, -np.inf, np.float32)
    for k in range(len(views)):
        rows, columns = np.nonzero(seen[k])
        origins, directions = views.rays(np.full(len(rows), k), rows, columns)
        points = origins + directions * distances[k][seen[k]][:, None]
        depths[k][seen[k]] = project(points, views.c2w[k], focal, *middle)[1]
        places.append(points[solid[k][seen[k]]])
    slack = BEHIND * 2 * HALF / resolution
    out = np.full((len(views), len(quantiles)), np.nan)
    for k, points in enumerate(places):
        others = np.full((len(views), len(points), 3), np.nan, np.float32)
        for j in range(len(views)):
            if j == k or not len(points):
                continue
            pixels, depth = project(points, views.c2w[j], focal, *middle)
            x, y = (pixels.astype(np.float32) - np.float32(0.5)).T[..., None]
            visible = cv2.remap(solid[j].astype(np.float32), x, y, cv2.INTER_LINEAR)[:, 0] > SOLID
            first = cv2.remap(depths[j], x, y, cv2.INTER_NEAREST, borderValue=-np.inf)[:, 0]
            visible &= depth < first + slack
            others[j, visible] = cv2.remap(colors[j], x, y, cv2.INTER_LINEAR)[visible, 0]
        enough = np.isfinite(others[..., 0]).sum(0) >= MIN_OTHERS
        if enough.any():
            expected = np.nanmedian(others[:, enough], axis=0)
            own = colors[k][solid[k] & seen[k]][enough]
            out[k] = np.quantile(np.sqrt(np.square(own - expected).mean(1)), quantiles)
    return out
